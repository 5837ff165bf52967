// How a warp whose lanes have a row each moves stretches of its rows between memory and shared memory.

#pragma once

#include "items.h"
#include "lanes.h"

namespace mmsparx {
namespace {

// Items from row to row in shared memory, 16 bytes more than a stretch has: 8 lanes that read 16 bytes at once, each of
// its own row, meet all banks.
template <typename In, int kStretch>
constexpr int kLaneRow = kStretch + 16 / sizeof(In);

// A warp's rows in memory, which are read and written from their first position to their last or, `reversed`, from
// their last to their first. Of a stretch a lane moves pieces of as many items as `vector` allows: one of every so many
// rows, and the next ones of the same rows, 32 pieces further on, if there are more than 32 to a row. In shared memory
// there are kRow items from row to row.
template <typename In, int kStretch, int kRow = kLaneRow<In, kStretch>>
class LaneLines {
 public:
  MMSPARX_INLINE LaneLines(In* first, int64_t stride, int rows, int length, int vector, bool reversed, int lane)
      : rows_(rows),
        vector_(vector < kWidest ? vector : kWidest),
        row_(lane / lanes_of_a_row(vector_)),
        left_(length - lane % lanes_of_a_row(vector_) * vector_),
        shared_(row_ * kRow + length - left_),
        reversed_(reversed),
        memory_(opaque(bytes_of(first + row_ * stride + (reversed ? left_ - vector_ : length - left_)))),
        step_(opaque(kLanes / lanes_of_a_row(vector_) * stride * int64_t(sizeof(In)))) {}

  // The stretch from `start` on, to shared memory and from there.
  template <int kPiece = 16 / sizeof(In)>
  MMSPARX_INLINE void load(In* shared, int start) const {
    if constexpr (kPiece > 1) {
      if (vector_ < kPiece) return load<kPiece / 2>(shared, start);
    }
    move<kPiece, true>(shared, start);
  }
  template <int kPiece = 16 / sizeof(In)>
  MMSPARX_INLINE void store(In* shared, int start) const {
    if constexpr (kPiece > 1) {
      if (vector_ < kPiece) return store<kPiece / 2>(shared, start);
    }
    move<kPiece, false>(shared, start);
  }


  // The same for lines of as many rows, of the same length and `vector`. Where rows and pieces are whole, all pieces are
  // on their way at once, since there are few warps to wait by turns.
  template <int kLines>
  static MMSPARX_INLINE void load(const LaneLines* const (&lines)[kLines], In* const (&shared)[kLines], int start) {
    if (!lines[0]->is_whole()) {
#pragma unroll
      for (int i = 0; i < kLines; i++) lines[i]->load(shared[i], start);
    } else if (start < lines[0]->left_) {
      Widest pieces[kLines][kPieces];
#pragma unroll
      for (int i = 0; i < kLines; i++) lines[i]->read(pieces[i], lines[i]->at(start));
#pragma unroll
      for (int i = 0; i < kLines; i++) lines[i]->template put<kRowsAtOnce>(shared[i] + lines[i]->shared_, pieces[i]);
    }
  }
  MMSPARX_INLINE void store_at_once(In* shared, int start) const {
    if (!is_whole()) {
      store(shared, start);
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
  // Of a lane's first piece: its row, the positions left from it on, its places in shared memory and, of the first
  // stretch, in memory. step_: bytes to its next row.
  const int row_, left_, shared_;
  const bool reversed_;
  unsigned char* const memory_;
  const int64_t step_;

  static MMSPARX_INLINE unsigned char* bytes_of(In* items) { return reinterpret_cast<unsigned char*>(items); }
  static MMSPARX_INLINE int lanes_of_a_row(int piece) { return kStretch / piece < kLanes ? kStretch / piece : kLanes; }

  MMSPARX_INLINE bool is_whole() const { return rows_ == kLanes && vector_ == kWidest; }
  MMSPARX_INLINE unsigned char* at(int position) const {
    return memory_ + (reversed_ ? -position : position) * int64_t(sizeof(In));
  }

  template <int kPiece, bool kLoads>
  MMSPARX_INLINE void move(In* shared, int start) const {
    constexpr int kOfARow = kStretch / kPiece, kLanesOfARow = kOfARow < kLanes ? kOfARow : kLanes;
    constexpr int kRows = kLanes / kLanesOfARow;
    // Pieces of a lane that are on their way at once: not all, or their addresses would fill the registers.
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

  // The lane's pieces of so many of its rows; `memory` goes on to the next.
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

  // The lane's pieces, one of every kRows-th row, from memory to shared memory and back.
  template <int kBytes, int kNumber>
  MMSPARX_INLINE unsigned char* read(Piece<kBytes> (&pieces)[kNumber], unsigned char* memory) const {
    check_aligned<kBytes>(memory);
#pragma unroll
    for (int i = 0; i < kNumber; i++) {
      pieces[i] = *reinterpret_cast<const Piece<kBytes>*>(memory);
      memory += step_;
    }
    return memory;
  }
  template <int kRows, int kBytes, int kNumber>
  MMSPARX_INLINE void put(In* shared, Piece<kBytes> (&pieces)[kNumber]) const {
    turn(pieces);
#pragma unroll
    for (int i = 0; i < kNumber; i++) *reinterpret_cast<Piece<kBytes>*>(shared + i * kRows * kRow) = pieces[i];
  }
  template <int kRows, int kBytes, int kNumber>
  MMSPARX_INLINE void take(Piece<kBytes> (&pieces)[kNumber], const In* shared) const {
#pragma unroll
    for (int i = 0; i < kNumber; i++) pieces[i] = *reinterpret_cast<const Piece<kBytes>*>(shared + i * kRows * kRow);
    turn(pieces);
  }
  template <int kBytes, int kNumber>
  MMSPARX_INLINE unsigned char* write(unsigned char* memory, const Piece<kBytes> (&pieces)[kNumber]) const {
    check_aligned<kBytes>(memory);
#pragma unroll
    for (int i = 0; i < kNumber; i++) {
      *reinterpret_cast<Piece<kBytes>*>(memory) = pieces[i];
      memory += step_;
    }
    return memory;
  }

  template <int kBytes, int kNumber>
  MMSPARX_INLINE void turn(Piece<kBytes> (&pieces)[kNumber]) const {
    constexpr int kPiece = kBytes / sizeof(In);
    if constexpr (kPiece > 1) {
      if (!reversed_) return;
#pragma unroll
      for (int i = 0; i < kNumber; i++) {
        Items<In, kPiece> items;
        memcpy(items.words, &pieces[i], kBytes);
        items.reverse();
        memcpy(&pieces[i], items.words, kBytes);
      }
    }
  }
};

}  // namespace
}  // namespace mmsparx
