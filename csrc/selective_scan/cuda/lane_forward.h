// The forward of many rows: a lane a row, a warp 32 neighbours, stretch after stretch.
//
// A warp reads a stretch of its rows, 128 bytes of each, into shared memory as rows lie in memory, and each lane takes
// its own from there; outputs go back the same way.

#pragma once

#include "lane_rows.h"

namespace mmsparx {
namespace {

constexpr int kLaneWarps = 2;
// Blocks that are to fit into a multiprocessor, whose shared memory has room for 11 at most: as many as need no
// register to be spilled.
template <typename In>
constexpr int kLaneBlocks = sizeof(In) == 2 ? 10 : 8;

struct LaneForwardArguments {
  Forward forward;
  int vector;  // see Items
};

struct alignas(8) Matrix {
  float B, C;
};

// A warp's part of the shared memory: of a stretch, B and C, and what of u and delta its rows have, 16 bytes longer:
// 8 lanes that read 16 bytes at once meet all banks.
template <typename In>
struct LaneMemory {
  static constexpr int kStretch = 128 / sizeof(In), kRow = kStretch + 16 / sizeof(In);
  Matrix matrices[kStretch];
  alignas(16) In u[kLanes * kRow];
  In delta[kLanes * kRow];
};

// A warp's rows in memory, which are read and written from their first position to their last or, `reversed`, from
// their last to their first. Of a stretch a lane moves pieces of as many items as `vector` allows: one of every so many
// rows, and the next ones of the same rows, 32 pieces further on, if there are more than 32 to a row.
template <typename In>
class LaneLines {
 public:
  static constexpr int kStretch = LaneMemory<In>::kStretch, kRow = LaneMemory<In>::kRow;

  MMSPARX_INLINE LaneLines(In* first, int64_t stride, int rows, int length, int vector, bool reversed, int lane)
      : rows_(rows),
        vector_(vector < kWidest ? vector : kWidest),
        row_(lane / lanes_of_a_row(vector_)),
        left_(length - lane % lanes_of_a_row(vector_) * vector_),
        shared_(row_ * kRow + length - left_),
        reversed_(reversed),
        memory_(bytes_of(first + row_ * stride + (reversed ? left_ - vector_ : length - left_))),
        step_(opaque(kLanes / lanes_of_a_row(vector_) * stride * int64_t(sizeof(In)))) {}

  // The stretch from `start` on, to shared memory and from there.
  template <int kPiece = 16 / sizeof(In)>
  MMSPARX_INLINE void load(In* shared, int start) const {
    if constexpr (kPiece > 1) {
      if (vector_ < kPiece) return load<kPiece / 2>(shared, start);
    }
    reversed_ ? move<kPiece, true, true>(shared, start) : move<kPiece, false, true>(shared, start);
  }
  template <int kPiece = 16 / sizeof(In)>
  MMSPARX_INLINE void store(In* shared, int start) const {
    if constexpr (kPiece > 1) {
      if (vector_ < kPiece) return store<kPiece / 2>(shared, start);
    }
    reversed_ ? move<kPiece, true, false>(shared, start) : move<kPiece, false, false>(shared, start);
  }

 private:
  static constexpr int kWidest = 16 / sizeof(In);
  // Pieces of a lane that are on their way at once: not all, or their addresses would fill the registers.
  static constexpr int kAtOnce = 4;

  const int rows_, vector_;
  // Of a lane's first piece: its row, the positions left from it on, its places in shared memory and, of the first
  // stretch, in memory. step_: bytes to its next row.
  const int row_, left_, shared_;
  const bool reversed_;
  unsigned char* const memory_;
  const int64_t step_;

  static MMSPARX_INLINE unsigned char* bytes_of(In* items) { return reinterpret_cast<unsigned char*>(items); }
  static MMSPARX_INLINE int lanes_of_a_row(int piece) { return kStretch / piece < kLanes ? kStretch / piece : kLanes; }

  template <int kPiece, bool kReversed>
  static MMSPARX_INLINE void turn(Piece<kPiece * sizeof(In)>& piece) {
    if constexpr (kReversed && kPiece > 1) {
      Items<In, kPiece> items;
      memcpy(items.words, &piece, sizeof(piece));
      items.reverse();
      memcpy(&piece, items.words, sizeof(piece));
    }
  }

  template <int kPiece, bool kReversed, bool kLoads>
  MMSPARX_INLINE void move(In* shared, int start) const {
    using Whole = Piece<kPiece * sizeof(In)>;
    constexpr int kOfARow = kStretch / kPiece, kLanesOfARow = kOfARow < kLanes ? kOfARow : kLanes;
    constexpr int kRows = kLanes / kLanesOfARow;
#pragma unroll 1
    for (int column = 0; column < kStretch; column += kLanesOfARow * kPiece) {
      const int begin = start + column;
      if (begin >= left_) break;
      unsigned char* memory = memory_ + (kReversed ? -begin : begin) * int64_t(sizeof(In));
      check_aligned<sizeof(Whole)>(memory);
      In* here = shared + shared_ + column;
#pragma unroll 1
      for (int row = row_; row < rows_; row += kAtOnce * kRows) {
        Whole pieces[kAtOnce];
        if constexpr (kLoads) {
#pragma unroll
          for (int i = 0; i < kAtOnce; i++) {
            if (row + i * kRows < rows_) pieces[i] = *reinterpret_cast<const Whole*>(memory);
            memory += step_;
          }
        }
#pragma unroll
        for (int i = 0; i < kAtOnce; i++) {
          Whole* const in_shared = reinterpret_cast<Whole*>(here + i * kRows * kRow);
          if constexpr (kLoads) {
            turn<kPiece, kReversed>(pieces[i]);
            if (row + i * kRows < rows_) *in_shared = pieces[i];
          } else {
            if (row + i * kRows < rows_) {
              Whole piece = *in_shared;
              turn<kPiece, kReversed>(piece);
              *reinterpret_cast<Whole*>(memory) = piece;
            }
            memory += step_;
          }
        }
        here += kAtOnce * kRows * kRow;
      }
    }
  }
};

// A warp's scan of its rows.
template <typename In>
struct LaneScan {
  using Memory = LaneMemory<In>;
  static constexpr int kItems = 8;
  const LaneLines<In> u, delta, out;
  const int rows, length;
  const In *B, *C;
  const float unit;  // of B

  template <int kNumber>
  static MMSPARX_INLINE void advance(LaneRow<In>& row, const Matrix* matrices, In* u, const In* delta) {
    float u_i[kNumber], step[kNumber], y[kNumber];
    if constexpr (kNumber == kItems) {
      Items<In, kItems> items;
      items.template load<true>(u, kItems, kItems);
#pragma unroll
      for (int i = 0; i < kItems; i++) u_i[i] = items[i];
      items.template load<true>(delta, kItems, kItems);
#pragma unroll
      for (int i = 0; i < kItems; i++) step[i] = items[i];
    } else {
      u_i[0] = widen(*u);
      step[0] = widen(*delta);
    }
    row.make_steps(step);
#pragma unroll
    for (int i = 0; i < kNumber; i++) y[i] = row.advance(u_i[i], step[i], matrices[i].B, matrices[i].C);
    if constexpr (kNumber == kItems) {
      Items<In, kItems> items;
      items.assign(y);
      items.template store<true>(u, kItems, kItems);
    } else {
      narrow(y[0], *u);
    }
  }

  // `row` and `saved` are the lane's, if it has one.
  MMSPARX_INLINE void run(LaneRow<In> row, float* saved, Memory& memory, int lane) const {
    if (lane < rows) *saved = 0;
#pragma unroll 1
    for (int start = 0; start < length; start += Memory::kStretch) {
      u.load(memory.u, start);
      delta.load(memory.delta, start);
      for (int i = lane; i < Memory::kStretch && start + i < length; i += kLanes) {
        memory.matrices[i] = {widen(B[start + i]) * unit, widen(C[start + i])};
      }
      sync_warp();
      if (lane < rows) {
        In *const u_here = memory.u + lane * Memory::kRow, *const delta_here = memory.delta + lane * Memory::kRow;
        const int count = length - start < Memory::kStretch ? length - start : Memory::kStretch;
        int i = 0;
#pragma unroll 1
        for (; count - i >= kItems; i += kItems) {
          advance<kItems>(row, memory.matrices + i, u_here + i, delta_here + i);
        }
#pragma unroll 1
        for (; i < count; i++) advance<1>(row, memory.matrices + i, u_here + i, delta_here + i);
        const int end = start + count;
        if (end % int(kChunk) == 0 || end == length) saved[(end - 1) / int(kChunk) + 1] = row.h;
      }
      sync_warp();
      out.store(memory.u, start);
      sync_warp();
    }
  }
};

// Of `first_row` and up to 31 after it, of a group.
template <typename In>
MMSPARX_INLINE void scan_rows_by_lanes(const Forward& f, int vector, int64_t batch, int64_t group, int64_t first_row,
                                       const In* u, int64_t u_stride, In* out, bool reversed, unsigned char* memory) {
  const Inputs& in = f.inputs;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes, length = int(in.length);
  const int64_t left = (group + 1) * in.group_dim() - first_row;
  const int rows = left < kLanes ? int(left) : kLanes;
  const int64_t row = first_row + (lane < rows ? lane : 0);
  LaneScan<In>{
      {const_cast<In*>(u), u_stride, rows, length, vector, reversed, lane},
      {const_cast<In*>(row_of<In>(in.delta, batch, first_row)), in.delta.row_stride, rows, length, vector, false, lane},
      {out, in.length, rows, length, vector, reversed, lane},
      rows,
      length,
      matrices_of<In>(in.B, batch, group),
      matrices_of<In>(in.C, batch, group),
      LaneRow<In>::unit(in),
  }
      .run(LaneRow<In>(in, row), static_cast<float*>(f.states) + (batch * in.dim + row) * state_count(in.length),
           reinterpret_cast<LaneMemory<In>*>(memory)[warp], lane);
}

// Of a warp: its place among those of a launch, each of a group.
struct LaneUnit {
  uint32_t batch, group, first;  // `first` row of the group

  MMSPARX_INLINE LaneUnit(const Inputs& in) {
    const uint32_t place = blockIdx.x * kLaneWarps + threadIdx.x / kLanes, groups = uint32_t(in.groups);
    const uint32_t units = (uint32_t(in.dim) / groups + kLanes - 1) / kLanes;
    first = place % units * kLanes;
    group = place / units % groups;
    batch = place / units / groups;
  }
};

template <typename In>
MMSPARX_KERNEL(kLaneWarps* kLanes, kLaneBlocks<In>)
lane_forward_kernel(const LaneForwardArguments arguments) {
  MMSPARX_SHARED_MEMORY(memory);
  const Inputs& in = arguments.forward.inputs;
  const LaneUnit unit(in);
  if (unit.batch >= in.batch) return;
  const int64_t first_row = unit.group * in.group_dim() + unit.first;
  In* const out = static_cast<In*>(arguments.forward.out) + (unit.batch * in.dim + first_row) * in.length;
  scan_rows_by_lanes<In>(arguments.forward, vector_of(arguments), unit.batch, unit.group, first_row,
                         row_of<In>(in.u, unit.batch, first_row), in.u.row_stride, out, false, memory);
}

}  // namespace
}  // namespace mmsparx
