// The backward of many rows, with a lane per row and 32 adjacent rows per warp, chunk by chunk from the last to the
// first.
//
// A warp copies a chunk of its rows to shared memory, as the forward does with a stretch. From the state saved before
// the chunk, each lane computes its steps, and the state before every eighth position. Then it goes back, eight
// positions at a time. The rows' contributions to dB and dC are summed across the lanes through shared memory.

#pragma once

#include "backward.h"
#include "lane_lines.h"
#include "lane_rows.h"

namespace mmsparx {
namespace {

constexpr int kLaneColumns = 2 * kLaneItems;  // positions that are summed over the rows at once
constexpr int kLaneChunk = int(kChunk);

// The chunk of a row in shared memory. du overwrites u, ddelta overwrites delta, and the row's dB overwrites the steps.
// In float, the steps' derivatives overwrite delta before that. The size is an odd number of 16 bytes, so that lanes
// that read 16 bytes of adjacent rows, or 64 bytes of rows four apart, use all banks.
template <typename In>
struct alignas(16) LaneChunk {
  In u[kLaneChunk], delta[kLaneChunk], grad[kLaneChunk];
  float steps[kLaneChunk], dC[kLaneColumns], unused[4];
};

// The shared memory of a block, which is one warp.
template <typename In>
struct LaneBackwardMemory {
  static_assert(sizeof(LaneChunk<In>) % 32 == 16, "an odd number of 16 bytes");
  LaneChunk<In> rows[kLanes];
  float B[kLaneChunk], C[kLaneChunk];
  float entering[kLaneChunk / kLaneItems * kLanes];  // states before every eighth position, by lane
};

// Number of blocks that must fit into a multiprocessor, whose shared memory has room for 9 or 6.
template <typename In>
constexpr int kLaneBackwardBlocks = sizeof(In) == 2 ? 8 : 6;

// The backward of a lane's row, whose chunks come from the last to the first.
template <typename In>
struct LaneRowBackward {
  static constexpr int kItems = kLaneItems;
  LaneRow<In> row;
  const float unit_A;  // A times the unit of the steps
  // For 16-bit inputs, a step's derivative over the unit is 2^(x - step), where x is delta plus this bias: the sigmoid
  // of x is exp(x - log(1 + exp(x))), and without a softplus the step is x.
  const float derivative_bias;
  float leaving = 0;  // gradient that leaves a position for earlier ones
  float dA = 0, dD = 0, dbias = 0;

  MMSPARX_INLINE LaneRowBackward(const Inputs& in, int64_t at)
      : row(in, at),
        unit_A(static_cast<const float*>(in.A)[at] * LaneRow<In>::unit(in)),
        derivative_bias(LaneRow<In>::counts_in_ln2(in) ? row.bias + 0.528766373f : row.bias) {}  // -log2(ln(2))

  // Computes the steps of the positions from `at` on, and the state that leaves them. Positions that are not valid get
  // values that have no effect, also on the way back; with a step of 0, an infinite A would give NaN.
  template <bool kWhole, bool kReversed>
  MMSPARX_INLINE void advance(LaneChunk<In>& chunk, const float* all_B, int at, int valid) {
    constexpr float kSmallest = 1.17549435e-38f;
    float u[kItems], B[kItems], step[kItems], derivative[kItems];
    if constexpr (!kWhole) {
      for (int i = at + valid; i < at + kItems; i++) {
        narrow(0.f, chunk.u[i ^ kTurned<In, kReversed>]);
        narrow(0.f, chunk.grad[i ^ kTurned<In, kReversed>]);
        narrow(-INFINITY, chunk.delta[i]);
      }
    }
    load_items<kReversed>(u, chunk.u + at);
    load_items(step, chunk.delta + at);
    load_items(B, all_B + at);
    if constexpr (LaneRow<In>::kPrecise) {
#pragma unroll
      for (int i = 0; i < kItems; i++) step[i] += row.bias;
      if (row.use_softplus) {
#pragma unroll
        for (int i = 0; i < kItems; i++) step[i] = softplus<true>(step[i], derivative[i]);
        store_items(chunk.delta + at, derivative);
      }
    } else {
      row.make_steps(step);
    }
#pragma unroll
    for (int i = 0; i < kItems; i++) {
      if (!kWhole && i >= valid) step[i] = kSmallest;
      row.h = fmaf(power_of_two(step[i] * row.A), row.h, step[i] * u[i] * B[i]);
    }
    store_items(chunk.steps + at, step);
  }

  // Differentiates the positions from `at` on, which the state h enters.
  template <bool kReversed>
  MMSPARX_INLINE void differentiate(LaneChunk<In>& chunk, const float* all_B, const float* all_C, int at, float h,
                                    float* at_dC) {
    float u[kItems], grad[kItems], B[kItems], C[kItems], step[kItems], derivative[kItems];
    load_items<kReversed>(u, chunk.u + at);
    load_items<kReversed>(grad, chunk.grad + at);
    load_items(derivative, chunk.delta + at);
    load_items(step, chunk.steps + at);
    load_items(B, all_B + at);
    load_items(C, all_C + at);
    if constexpr (!LaneRow<In>::kPrecise) {
#pragma unroll
      for (int i = 0; i < kItems; i++) {
        derivative[i] = power_of_two(fmaf(derivative[i], row.of_delta, derivative_bias) - step[i]);
      }
    }
    // `kept` is the part of h from the position before, and `change` the derivative of h by the step.
    float decay[kItems], kept[kItems], change[kItems], dC[kItems];
#pragma unroll
    for (int i = 0; i < kItems; i++) {
      const float drive = u[i] * B[i];
      decay[i] = power_of_two(step[i] * row.A);
      kept[i] = decay[i] * h;
      h = fmaf(step[i], drive, kept[i]);
      change[i] = fmaf(unit_A, kept[i], drive);
      dC[i] = grad[i] * h;
      dD = fmaf(grad[i], u[i], dD);
    }
    float du[kItems], ddelta[kItems], dB[kItems];
#pragma unroll
    for (int i = kItems - 1; i >= 0; i--) {
      const float dh = fmaf(C[i], grad[i], leaving), of_step = dh * step[i];
      leaving = decay[i] * dh;
      dA = fmaf(of_step, kept[i], dA);
      dB[i] = of_step * u[i];
      du[i] = of_step * B[i];
      if (row.use_D) du[i] = fmaf(row.D, grad[i], du[i]);
      ddelta[i] = dh * change[i] * derivative[i];
      dbias += ddelta[i];
    }
    store_items(at_dC, dC);
    store_items(chunk.steps + at, dB);
    store_items<kReversed>(chunk.u + at, du);
    store_items(chunk.delta + at, ddelta);
  }
};

// A lane's part of the sums of a warp's dB and dC over its rows, at kLaneColumns positions. It sums four positions of
// eight rows, of dB or dC, then exchanges partial sums with the lanes of the other rows until it has one sum over all
// rows.
template <typename In>
class LaneColumns {
  using Chunk = LaneChunk<In>;

 public:
  // `dB` and `dC` are those of the first position.
  MMSPARX_INLINE LaneColumns(float* dB, float* dC, float unit_of_B, int length, int lane)
      : of_C_(opaque(lane & 8)),
        other_rows_(opaque(lane & 16)),
        odd_rows_(opaque(lane & 4)),
        unit_(opaque(of_C_ ? 1.f : unit_of_B)) {
    const int position = lane % 4 * 4 + (other_rows_ ? 2 : 0) + (odd_rows_ ? 1 : 0);
    from_ = opaque((other_rows_ + odd_rows_) * kRow + lane % 4 * 4 +
                   int(of_C_ ? offsetof(Chunk, dC) : offsetof(Chunk, steps)) / kFloat);
    left_ = opaque(length - position);
    sums_ = opaque((of_C_ ? dC : dB) + position);
  }

  // Sums from position `at` on, in a chunk that begins at `start`.
  MMSPARX_INLINE void add(const Chunk* rows, int start, int at) const {
    const float* const from = reinterpret_cast<const float*>(rows) + from_ + (of_C_ ? 0 : at);
    float sums[4];
#pragma unroll
    for (int r = 0; r < 8; r++) {
      Items<float, 4> items;
      items.template load<true>(from + (r % 4 + r / 4 * 8) * kRow, 4, 4);
#pragma unroll
      for (int i = 0; i < 4; i++) sums[i] = r == 0 ? items[i] : sums[i] + items[i];
    }
    const float first = kept_sum(other_rows_, sums[0], sums[2], 16);
    const float second = kept_sum(other_rows_, sums[1], sums[3], 16);
    const float sum = kept_sum(odd_rows_, first, second, 4);
    if (start + at < left_) sums_[start + at] = sum * unit_;
  }

 private:
  static constexpr int kFloat = sizeof(float), kRow = sizeof(Chunk) / kFloat;
  const int of_C_, other_rows_, odd_rows_;  // not 0 if the lane sums dC, and by its rows
  const float unit_;
  int from_, left_;
  float* sums_;

  // Of two lanes with two numbers each, one gets the sum of the first numbers, and the other, with `second`, that of
  // the second ones.
  static MMSPARX_INLINE float kept_sum(bool second, float a, float b, int distance) {
    return (second ? b : a) + shuffle_xor(second ? a : b, distance);
  }
};

// The backward of a warp's rows.
template <typename In>
struct LaneScanBackward {
  using Memory = LaneBackwardMemory<In>;
  using Lines = LaneLines<In, kLaneChunk, sizeof(LaneChunk<In>) / sizeof(In)>;
  const Lines u, delta, grad, du, ddelta;
  const int rows, length, lane;
  const In *B, *C;   // at the lane's first position
  const float unit;  // factor of B
  const LaneColumns<In> columns;

  // Runs the backward. `saved` and the last three arguments belong to the lane's row, if it has one.
  template <bool kReversed>
  MMSPARX_INLINE void run(LaneRowBackward<In> row, const float* saved, Memory& memory, double* dA, double* dD,
                          double* dbias) const {
    LaneChunk<In>& chunk = memory.rows[lane];
    float* const entering = memory.entering + lane;
    // A lane without a row contributes zeros.
    for (float& x : chunk.steps) x = 0;
    for (float& x : chunk.dC) x = 0;
    double dA_sum = 0, dD_sum = 0, dbias_sum = 0;
#pragma unroll 1
    for (int number = (length - 1) / kLaneChunk; number >= 0; number--) {
      const int start = number * kLaneChunk, count = length - start < kLaneChunk ? length - start : kLaneChunk;
      if constexpr (sizeof(In) == 2) {
        Lines::load({&u, &delta, &grad}, {memory.rows->u, memory.rows->delta, memory.rows->grad}, start);
      } else {  // pieces of all three would not fit into the registers
        Lines::load({&u}, {memory.rows->u}, start);
        Lines::load({&delta}, {memory.rows->delta}, start);
        Lines::load({&grad}, {memory.rows->grad}, start);
      }
#pragma unroll
      for (int first = 0; first < kLaneChunk; first += kLanes) {
        const bool valid = first < count - lane;
        memory.B[first + lane] = valid ? widen(B[start + first]) * unit : 0.f;
        memory.C[first + lane] = valid ? widen(C[start + first]) : 0.f;
      }
      sync_warp();
      if (lane < rows) {
        row.row.h = saved[number];
        int at = 0;
#pragma unroll 1
        for (; count - at >= kLaneItems; at += kLaneItems) {
          entering[at * (kLanes / kLaneItems)] = row.row.h;
          row.template advance<true, kReversed>(chunk, memory.B, at, kLaneItems);
        }
#pragma unroll 1
        for (; at < count; at += kLaneItems) {
          entering[at * (kLanes / kLaneItems)] = row.row.h;
          row.template advance<false, kReversed>(chunk, memory.B, at, count - at);
        }
      }
      if (LaneRow<In>::kPrecise && !row.row.use_softplus) {
#pragma unroll 1
        for (In& derivative : chunk.delta) narrow(1.f, derivative);
      }
#pragma unroll 1
      for (int begin = (count - 1) / kLaneColumns * kLaneColumns; begin >= 0; begin -= kLaneColumns) {
        if (lane < rows) {
#pragma unroll 1
          for (int i = begin + kLaneItems < count ? kLaneItems : 0; i >= 0; i -= kLaneItems) {
            const int at = begin + i;
            row.template differentiate<kReversed>(chunk, memory.B, memory.C, at, entering[at * (kLanes / kLaneItems)],
                                                  chunk.dC + i);
          }
        }
        sync_warp();
        columns.add(memory.rows, start, begin);
        sync_warp();
      }
      du.store(memory.rows->u, start);
      ddelta.store(memory.rows->delta, start);
      sync_warp();
      dA_sum += row.dA, dD_sum += row.dD, dbias_sum += row.dbias;
      row.dA = row.dD = row.dbias = 0;
    }
    if (lane < rows) {
      *dA = dA_sum * unit;
      *dD = dD_sum;
      *dbias = dbias_sum;
    }
  }
};

// The unit of work of a block: `number` among the blocks of its group, of 32 rows each.
struct LaneBackwardUnit {
  int64_t batch, group, number;

  MMSPARX_INLINE explicit LaneBackwardUnit(const Backward& b) {
    const uint32_t blocks = uint32_t(b.blocks), groups = uint32_t(b.inputs.groups), place = blockIdx.x;
    number = place % blocks;
    group = place / blocks % groups;
    batch = place / blocks / groups;
  }
};

// Differentiates the rows of a block, which u, grad and du point to.
template <typename In>
MMSPARX_INLINE void differentiate_rows_by_lanes(const Backward& b, int vector, const LaneBackwardUnit& unit,
                                                Lines<const In> u, Lines<const In> grad, In* du, bool reversed,
                                                unsigned char* memory) {
  const Inputs& in = b.inputs;
  const int lane = threadIdx.x, length = int(in.length);
  const int64_t before = unit.number * kLanes, left = in.group_dim() - before;
  const int rows = left < kLanes ? int(left) : kLanes;
  const int64_t first_row = unit.group * in.group_dim() + before, row = first_row + (lane < rows ? lane : 0);
  const int64_t place = unit.batch * in.dim + row;
  const int64_t partials = ((unit.batch * in.groups + unit.group) * b.blocks + unit.number) * length;
  const In* const delta = row_of<In>(in.delta, unit.batch, first_row);
  In* const ddelta = static_cast<In*>(b.ddelta) + (unit.batch * in.dim + first_row) * length;
  const float of_B = LaneRow<In>::unit(in);
  const LaneScanBackward<In> scan{
      {const_cast<In*>(u.first), u.stride, rows, length, vector, reversed, lane},
      {const_cast<In*>(delta), in.delta.row_stride, rows, length, vector, false, lane},
      {const_cast<In*>(grad.first), grad.stride, rows, length, vector, reversed, lane},
      {du, length, rows, length, vector, reversed, lane},
      {ddelta, length, rows, length, vector, false, lane},
      rows,
      length,
      lane,
      opaque(matrices_of<In>(in.B, unit.batch, unit.group) + lane),
      opaque(matrices_of<In>(in.C, unit.batch, unit.group) + lane),
      of_B,
      {static_cast<float*>(b.dB_partial) + partials, static_cast<float*>(b.dC_partial) + partials, of_B, length, lane},
  };
  const LaneRowBackward<In> of_lane(in, row);
  const float* const saved = static_cast<const float*>(b.states) + place * state_count(length);
  LaneBackwardMemory<In>& of_warp = *reinterpret_cast<LaneBackwardMemory<In>*>(memory);
  double *const dA = b.dA_partial + place, *const dD = b.dD_partial + place, *const dbias = b.dbias_partial + place;
  reversed ? scan.template run<true>(of_lane, saved, of_warp, dA, dD, dbias)
           : scan.template run<false>(of_lane, saved, of_warp, dA, dD, dbias);
}

template <typename In>
MMSPARX_KERNEL(kLanes, kLaneBackwardBlocks<In>)
lane_backward_kernel(const BackwardArguments arguments) {
  MMSPARX_SHARED_MEMORY(memory);
  const Backward& b = arguments.backward;
  const Inputs& in = b.inputs;
  const LaneBackwardUnit unit(b);
  const int64_t row = unit.group * in.group_dim() + unit.number * kLanes;
  In* const du = static_cast<In*>(b.du) + (unit.batch * in.dim + row) * in.length;
  differentiate_rows_by_lanes<In>(b, vector_of(arguments), unit, lines_of<In>(in.u, unit.batch, row),
                                  lines_of<In>(b.grad, unit.batch, row), du, false, memory);
}

}  // namespace
}  // namespace mmsparx
