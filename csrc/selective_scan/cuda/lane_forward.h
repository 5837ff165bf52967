// The forward of many rows, with a lane per row and 32 adjacent rows per warp, stretch by stretch.
//
// A warp copies a stretch of its rows, 128 bytes of each, to shared memory with coalesced reads, and each lane reads
// its own row from there; outputs go back the same way.

#pragma once

#include "lane_lines.h"
#include "lane_rows.h"

namespace mmsparx {
namespace {

constexpr int kLaneWarps = 2;
// Number of blocks that must fit into a multiprocessor: the largest with which no registers are spilled. The shared
// memory of a multiprocessor has room for 11 at most.
template <typename In>
constexpr int kLaneBlocks = sizeof(In) == 2 ? 10 : 8;

struct LaneForwardArguments {
  Forward forward;
  int vector;  // see Items
};

// A warp's part of the shared memory: B and C of a stretch, and u and delta of its rows.
template <typename In>
struct LaneMemory {
  static constexpr int kStretch = 128 / sizeof(In), kRow = kLaneRow<In, kStretch>;
  alignas(16) float B[kStretch];
  float C[kStretch];
  In u[kLanes * kRow], delta[kLanes * kRow];
};

// The scan of a warp's rows.
template <typename In>
struct LaneScan {
  using Memory = LaneMemory<In>;
  using Lines = LaneLines<In, Memory::kStretch>;
  const Lines u, delta, out;
  const int rows, length;
  const In *B, *C;
  const float unit;  // factor of B

  template <bool kReversed>
  static MMSPARX_INLINE void advance(LaneRow<In>& row, const float* B, const float* C, In* u, const In* delta) {
    float u_i[kLaneItems], step[kLaneItems], B_i[kLaneItems], C_i[kLaneItems], y[kLaneItems];
    load_items<kReversed>(u_i, u);
    load_items(step, delta);
    load_items(B_i, B);
    load_items(C_i, C);
    row.make_steps(step);
#pragma unroll
    for (int i = 0; i < kLaneItems; i++) y[i] = row.advance(u_i[i], step[i], B_i[i], C_i[i]);
    store_items<kReversed>(u, y);
  }

  static MMSPARX_INLINE void advance_by_one(LaneRow<In>& row, float B, float C, In& u, In delta) {
    float step[1] = {widen(delta)};
    row.make_steps(step);
    narrow(row.advance(widen(u), *step, B, C), u);
  }

  // Runs the scan. `row` and `saved` belong to the lane's row, if it has one.
  template <bool kReversed>
  MMSPARX_INLINE void run(LaneRow<In> row, float* saved, Memory& memory, int lane) const {
    if (lane < rows) *saved = 0;
#pragma unroll 1
    for (int start = 0; start < length; start += Memory::kStretch) {
      Lines::load({&u}, {memory.u}, start);
      Lines::load({&delta}, {memory.delta}, start);
#pragma unroll
      for (int i = 0; i < Memory::kStretch; i += kLanes) {
        const int at = start + i + lane;
        if (at < length) {
          memory.B[i + lane] = widen(B[at]) * unit;
          memory.C[i + lane] = widen(C[at]);
        }
      }
      sync_warp();
      if (lane < rows) {
        In *const u_here = memory.u + lane * Memory::kRow, *const delta_here = memory.delta + lane * Memory::kRow;
        const int count = length - start < Memory::kStretch ? length - start : Memory::kStretch;
        int i = 0;
#pragma unroll 1
        for (; count - i >= kLaneItems; i += kLaneItems) {
          advance<kReversed>(row, memory.B + i, memory.C + i, u_here + i, delta_here + i);
        }
#pragma unroll 1
        for (; i < count; i++) {
          advance_by_one(row, memory.B[i], memory.C[i], u_here[i ^ kTurned<In, kReversed>], delta_here[i]);
        }
        const int end = start + count;
        if (end % int(kChunk) == 0 || end == length) saved[(end - 1) / int(kChunk) + 1] = row.h;
      }
      sync_warp();
      out.store(memory.u, start);
      sync_warp();
    }
  }
};

// Scans `first_row` and up to 31 rows after it in the same group.
template <typename In>
MMSPARX_INLINE void scan_rows_by_lanes(const Forward& f, int vector, int64_t batch, int64_t group, int64_t first_row,
                                       const In* u, int64_t u_stride, In* out, bool reversed, unsigned char* memory) {
  const Inputs& in = f.inputs;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes, length = int(in.length);
  const int64_t left = (group + 1) * in.group_dim() - first_row;
  const int rows = left < kLanes ? int(left) : kLanes;
  const int64_t row = first_row + (lane < rows ? lane : 0);
  const LaneScan<In> scan{
      {const_cast<In*>(u), u_stride, rows, length, vector, reversed, lane},
      {const_cast<In*>(row_of<In>(in.delta, batch, first_row)), in.delta.row_stride, rows, length, vector, false, lane},
      {out, in.length, rows, length, vector, reversed, lane},
      rows,
      length,
      matrices_of<In>(in.B, batch, group),
      matrices_of<In>(in.C, batch, group),
      LaneRow<In>::unit(in),
  };
  const LaneRow<In> of_lane(in, row);
  float* const saved = static_cast<float*>(f.states) + (batch * in.dim + row) * state_count(in.length);
  LaneMemory<In>& of_warp = reinterpret_cast<LaneMemory<In>*>(memory)[warp];
  reversed ? scan.template run<true>(of_lane, saved, of_warp, lane)
           : scan.template run<false>(of_lane, saved, of_warp, lane);
}

// The unit of work of a warp in a launch: up to 32 rows of one group.
struct LaneUnit {
  uint32_t batch, group, first;  // `first` row within the group

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
