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
// rows, and the next ones of the same rows, 32 pieces further on, if there are more than 32 to a row. kAtOnce pieces of
// a lane are on their way at once: not all where their addresses would fill the registers.
template <typename In, int kStretch, int kRow = kLaneRow<In, kStretch>, int kAtOnce = 4>
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

 private:
  static constexpr int kWidest = 16 / sizeof(In);

  const int rows_, vector_;
  // Of a lane's first piece: its row, the positions left from it on, its places in shared memory and, of the first
  // stretch, in memory. step_: bytes to its next row.
  const int row_, left_, shared_;
  const bool reversed_;
  unsigned char* const memory_;
  const int64_t step_;

  static MMSPARX_INLINE unsigned char* bytes_of(In* items) { return reinterpret_cast<unsigned char*>(items); }
  static MMSPARX_INLINE int lanes_of_a_row(int piece) { return kStretch / piece < kLanes ? kStretch / piece : kLanes; }

  template <int kPiece, bool kLoads>
  MMSPARX_INLINE void move(In* shared, int start) const {
    constexpr int kOfARow = kStretch / kPiece, kLanesOfARow = kOfARow < kLanes ? kOfARow : kLanes;
    constexpr int kRows = kLanes / kLanesOfARow;
#pragma unroll 1
    for (int column = 0; column < kStretch; column += kLanesOfARow * kPiece) {
      const int begin = start + column;
      if (begin >= left_) break;
      unsigned char* memory = memory_ + (reversed_ ? -begin : begin) * int64_t(sizeof(In));
      check_aligned<kPiece * sizeof(In)>(memory);
      In* here = shared + shared_ + column;
      int rows = rows_ - row_;
      if constexpr (kAtOnce * kRows == kLanes) {
        if (rows > kLanes - kRows) {
          move_pieces<kPiece, kAtOnce, kRows, kLoads>(here, memory);
          continue;
        }
      } else {
#pragma unroll 1
        for (; rows > (kAtOnce - 1) * kRows; rows -= kAtOnce * kRows) {
          move_pieces<kPiece, kAtOnce, kRows, kLoads>(here, memory);
          here += kAtOnce * kRows * kRow;
        }
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
    using Whole = Piece<kPiece * sizeof(In)>;
    Whole pieces[kNumber];
    const unsigned char* from = memory;
#pragma unroll
    for (int i = 0; i < kNumber; i++) {
      const void* const piece = kLoads ? static_cast<const void*>(from) : shared + i * kRows * kRow;
      pieces[i] = *static_cast<const Whole*>(piece);
      from += step_;
    }
    if constexpr (kPiece > 1) {
      if (reversed_) {
#pragma unroll
        for (int i = 0; i < kNumber; i++) turn<kPiece>(pieces[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kNumber; i++) {
      void* const piece = kLoads ? static_cast<void*>(shared + i * kRows * kRow) : memory;
      *static_cast<Whole*>(piece) = pieces[i];
      memory += step_;
    }
  }

  template <int kPiece>
  static MMSPARX_INLINE void turn(Piece<kPiece * sizeof(In)>& piece) {
    Items<In, kPiece> items;
    memcpy(items.words, &piece, sizeof(piece));
    items.reverse();
    memcpy(&piece, items.words, sizeof(piece));
  }
};

}  // namespace
}  // namespace mmsparx
