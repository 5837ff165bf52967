// Copies of stretches of rows between global and shared memory, by a warp with a lane per row.

#pragma once

#include "items.h"
#include "lanes.h"

namespace mmsparx {
namespace {

// Distance of rows in shared memory, in items: 16 bytes more than a stretch, so that 8 lanes that read 16 bytes of
// their own rows at once use all banks.
template <typename In, int kStretch>
constexpr int kLaneRow = kStretch + 16 / sizeof(In);

// Rows that are read backwards keep their order in memory within 16 bytes of shared memory, where position p is at p ^
// kTurned. Reversing them there would cost instructions; instead, a lane uses its registers in reverse order.
template <typename In, bool kReversed>
constexpr int kTurned = kReversed ? 16 / sizeof(In) - 1 : 0;

constexpr int kLaneItems = 8;  // positions that a lane moves to or from shared memory at once

template <bool kReversed = false, typename T>
MMSPARX_INLINE void load_items(float (&to)[kLaneItems], const T* from) {
  Items<T, kLaneItems> items;
  items.template load<true>(from, kLaneItems, kLaneItems);
#pragma unroll
  for (int i = 0; i < kLaneItems; i++) to[i] = items[i ^ kTurned<T, kReversed>];
}
template <bool kReversed = false, typename T>
MMSPARX_INLINE void store_items(T* to, const float (&from)[kLaneItems]) {
  float turned[kLaneItems];
#pragma unroll
  for (int i = 0; i < kLaneItems; i++) turned[i] = from[i ^ kTurned<T, kReversed>];
  Items<T, kLaneItems> items;
  items.assign(turned);
  items.template store<true>(to, kLaneItems, kLaneItems);
}

// The rows of a warp in global memory, which are read and written from first to last position or, if `reversed`, from
// last to first. A lane moves pieces of a stretch of as many items as `vector` allows: one of every few rows, and if a
// row has more than 32 pieces, the ones of the same rows that are 32 pieces further on. In shared memory the distance
// of rows is kRow items.
template <typename In, int kStretch, int kRow = kLaneRow<In, kStretch>>
class LaneLines {
 public:
  MMSPARX_INLINE LaneLines(In* first, int64_t stride, int rows, int length, int vector, bool reversed, int lane)
      : rows_(rows),
        vector_(vector < kWidest ? vector : kWidest),
        row_(lane / lanes_of_a_row(vector_)),
        left_(length - lane % lanes_of_a_row(vector_) * vector_),
        shared_(row_ * kRow + ((length - left_) ^ (reversed ? kWidest - vector_ : 0))),
        reversed_(reversed),
        memory_(opaque(bytes_of(first + row_ * stride + (reversed ? left_ - vector_ : length - left_)))),
        step_(opaque(int(kLanes / lanes_of_a_row(vector_) * stride / vector_))) {}

  // Loads stretches from `start` on into shared memory, for lines with the same numbers of rows, the same length and
  // `vector`. If rows and pieces are whole, all pieces are in flight at once, since there are few warps to hide
  // latency.
  template <int kLines>
  static MMSPARX_INLINE void load(const LaneLines* const (&lines)[kLines], In* const (&shared)[kLines], int start) {
    if (!lines[0]->is_whole()) {
#pragma unroll
      for (int i = 0; i < kLines; i++) lines[i]->template move<true>(shared[i], start);
    } else if (start < lines[0]->left_) {
      Widest pieces[kLines][kPieces];
#pragma unroll
      for (int i = 0; i < kLines; i++) lines[i]->read(pieces[i], lines[i]->at(start));
#pragma unroll
      for (int i = 0; i < kLines; i++) lines[i]->template put<kRowsAtOnce>(shared[i] + lines[i]->shared_, pieces[i]);
    }
  }
  // Stores a stretch from shared memory.
  MMSPARX_INLINE void store(In* shared, int start) const {
    if (!is_whole()) {
      move<false>(shared, start);
    } else if (start < left_) {
      Widest pieces[kPieces];
      take<kRowsAtOnce>(pieces, shared + shared_);
      write(at(start), pieces);
    }
  }

 private:
  static constexpr int kWidest = 16 / sizeof(In), kRowsAtOnce = kLanes * kWidest / kStretch;
  static constexpr int kPieces = kLanes / kRowsAtOnce;
  using Widest = Piece<16>;

  const int rows_, vector_;
  // For a lane's first piece: its row, the number of positions from it on, and its places in shared memory and, for the
  // first stretch, in global memory. step_ is the distance to the lane's next row in pieces; if 32 bits cannot hold it,
  // no GPU has memory for 32 rows.
  const int row_, left_, shared_;
  const bool reversed_;
  unsigned char* const memory_;
  const uint32_t step_;

  static MMSPARX_INLINE unsigned char* bytes_of(In* items) { return reinterpret_cast<unsigned char*>(items); }
  static MMSPARX_INLINE int lanes_of_a_row(int piece) { return kStretch / piece < kLanes ? kStretch / piece : kLanes; }

  MMSPARX_INLINE bool is_whole() const { return rows_ == kLanes && vector_ == kWidest; }
  MMSPARX_INLINE unsigned char* at(int position) const {
    return memory_ + (reversed_ ? -position : position) * int64_t(sizeof(In));
  }

  // Moves a stretch to shared memory, or from there.
  template <bool kLoads, int kPiece = kWidest>
  MMSPARX_INLINE void move(In* shared, int start) const {
    if constexpr (kPiece > 1) {
      if (vector_ < kPiece) return move<kLoads, kPiece / 2>(shared, start);
    }
    constexpr int kOfARow = kStretch / kPiece, kLanesOfARow = kOfARow < kLanes ? kOfARow : kLanes;
    constexpr int kRows = kLanes / kLanesOfARow;
    // Number of a lane's pieces in flight. Not all are, since their addresses would fill the registers.
    constexpr int kAtOnce = 4;
#pragma unroll 1
    for (int column = 0; column < kStretch; column += kLanesOfARow * kPiece) {
      if (start + column >= left_) break;
      unsigned char* memory = at(start + column);
      In* here = shared + shared_ + column;
      int rows = rows_ - row_;
#pragma unroll 1
      for (; rows > (kAtOnce - 1) * kRows; rows -= kAtOnce * kRows) {
        move_pieces<kPiece, kAtOnce, kRows, kLoads>(here, memory);
        here += kAtOnce * kRows * kRow;
      }
#pragma unroll 1
      for (; rows > 0; rows -= kRows) {
        move_pieces<kPiece, 1, kRows, kLoads>(here, memory);
        here += kRows * kRow;
      }
    }
  }

  // Moves the lane's pieces of kNumber rows, and advances `memory` to the next one.
  template <int kPiece, int kNumber, int kRows, bool kLoads>
  MMSPARX_INLINE void move_pieces(In* shared, unsigned char*& memory) const {
    Piece<kPiece * sizeof(In)> pieces[kNumber];
    if constexpr (kLoads) {
      memory = read(pieces, memory);
      put<kRows>(shared, pieces);
    } else {
      take<kRows>(pieces, shared);
      memory = write(memory, pieces);
    }
  }

  // Move the lane's pieces, one of every kRows-th row, from global to shared memory and back.
  template <int kBytes, int kNumber>
  MMSPARX_INLINE unsigned char* read(Piece<kBytes> (&pieces)[kNumber], unsigned char* memory) const {
    check_aligned<kBytes>(memory);
#pragma unroll
    for (int i = 0; i < kNumber; i++) {
      pieces[i] = *reinterpret_cast<const Piece<kBytes>*>(memory);
      memory += uint64_t(step_) * kBytes;
    }
    return memory;
  }
  template <int kRows, int kBytes, int kNumber>
  MMSPARX_INLINE void put(In* shared, Piece<kBytes> (&pieces)[kNumber]) const {
#pragma unroll
    for (int i = 0; i < kNumber; i++) *reinterpret_cast<Piece<kBytes>*>(shared + i * kRows * kRow) = pieces[i];
  }
  template <int kRows, int kBytes, int kNumber>
  MMSPARX_INLINE void take(Piece<kBytes> (&pieces)[kNumber], const In* shared) const {
#pragma unroll
    for (int i = 0; i < kNumber; i++) pieces[i] = *reinterpret_cast<const Piece<kBytes>*>(shared + i * kRows * kRow);
  }
  template <int kBytes, int kNumber>
  MMSPARX_INLINE unsigned char* write(unsigned char* memory, const Piece<kBytes> (&pieces)[kNumber]) const {
    check_aligned<kBytes>(memory);
#pragma unroll
    for (int i = 0; i < kNumber; i++) {
      *reinterpret_cast<Piece<kBytes>*>(memory) = pieces[i];
      memory += uint64_t(step_) * kBytes;
    }
    return memory;
  }
};

}  // namespace
}  // namespace mmsparx
