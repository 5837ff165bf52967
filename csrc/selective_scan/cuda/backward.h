// The backward with a warp for several rows of a group, tile by tile from the last to the first.
//
// Only the sizes and the GPU decide how sums are split, and partial sums are added in a fixed order, so that gradients
// are reproducible bit by bit: a warp sums dB and dC over its rows (its block of the group), and another kernel sums
// them over all blocks.

#pragma once

#include "tiles.h"

namespace mmsparx {
namespace {

constexpr int kAddThreads = 256;
// Number of blocks, of one warp each, that must fit into a multiprocessor, so that other warps run while one waits.
template <typename S>
constexpr int kBackwardBlocks = sizeof(S) == 8 ? 8 : 16;

struct BackwardArguments {
  Backward backward;
  int64_t rows;    // number of rows of a block
  int vector;      // see Items
  int begin, end;  // positions of the part; the part that ends at the length runs first
};

// Bytes of shared memory of a row: dA and the gradient that leaves a tile, both per state, and dD and dbias.
template <typename S>
constexpr size_t row_bytes(int64_t states) {
  return size_t(2 * states + 2) * sizeof(S);
}

// Returns the number of rows of a block. Each block writes partial sums as long as a row, so blocks are as large as
// they can be without leaving too few warps.
template <typename S>
int64_t backward_rows(const Inputs& in) {
  constexpr int64_t kMost = 16;
  constexpr size_t kSharedBytes = 12 << 10;  // of a block; a single row may take more, up to what every GPU has
  const int64_t enough = enough_warps();
  const auto too_many = [&](int64_t rows) {
    return in.batch * in.dim < rows * enough || size_t(rows) * row_bytes<S>(in.states) > kSharedBytes;
  };
  int64_t rows = kMost;
  while (rows > 1 && too_many(rows)) rows /= 2;
  return rows;
}

// The rows of a block in global memory.
template <typename T>
struct Lines {
  T* first;
  int64_t stride;

  MMSPARX_INLINE T* operator[](int r) const { return first + r * stride; }
};

template <typename In>
MMSPARX_INLINE Lines<const In> lines_of(const Rows& rows, int64_t batch, int64_t first_row) {
  return {row_of<In>(rows, batch, first_row), rows.row_stride};
}

// The backward of a warp's block of rows.
template <typename In, int kStates>
struct BackwardRows {
  using S = State<In>;
  const Backward& b;
  const Inputs& in;
  const int vector, lane, states, rows, begin, end;
  const int64_t batch, first_row;
  const Lines<const In> u_rows, grad_rows;
  const Lines<In> du_rows;
  bool reversed;  // these rows are read and written from their ends, and du is added to
  const In *B, *C;
  S *dB_partial, *dC_partial;  // offset as if the part began where the row does
  // These are in shared memory: per row and state dA and the gradient that leaves a tile for earlier positions, per row
  // dD and dbias.
  S *dA, *leaving, *dD, *dbias;

  // Adds a row's gradients to dB and dC of the tile if there is one state, otherwise to those in global memory.
  template <bool kWhole, int kItems>
  MMSPARX_INLINE void tile_of_row(int r, int start, S (&dB)[kItems], S (&dC)[kItems]) {
    const int length = int(in.length), first = start + lane * kItems;
    const Span<kWhole> span{length, first, vector, false}, way{length, first, vector, reversed};
    const int valid = span.valid();
    const int64_t row = first_row + r, place = batch * in.dim + row;
    const S bias = value_or_zero<S>(in.delta_bias, row), D = value_or_zero<S>(in.D, row);
    const S* const A = static_cast<const S*>(in.A) + row * states;
    const S* const entering =
        static_cast<const S*>(b.states) + (place * state_count(in.length) + start / kChunk) * states;
    Steps<In, kItems> steps;
    Items<In, kItems> grad;
    way.load(steps.u, u_rows[r]);
    way.load(grad, grad_rows[r]);
    span.load(steps.delta, row_of<In>(in.delta, batch, row));
    Items<In, kItems> B_n, C_n;
    span.load(B_n, B);
    span.load(C_n, C);
    S A_n = A[0], entering_n = entering[0];
    steps.template make<kWhole>(valid, bias, in.delta_softplus);
    S ddrive[kItems] = {};  // gradient of step * u
    S dstep[kItems] = {};   // gradient of the step through the decay

#pragma unroll 1
    for (int n = 0; n < states; n++) {
      if (kStates != 1 && n > 0) {
        A_n = A[n], entering_n = entering[n];
        span.load(B_n, B + n * in.B.state_stride);
        span.load(C_n, C + n * in.C.state_stride);
      }
      Recurrence<In, kItems> recurrence;
      recurrence.template make<kWhole>(steps, B_n, A_n, valid);

      // `kept` is the part of h that comes from the state before. It is computed as decay * h, since h - drive would
      // cancel.
      S h[kItems], kept[kItems];
      S before = enter_from_below(recurrence.all_decay, recurrence.all_drive, entering_n, lane);
#pragma unroll
      for (int i = 0; i < kItems; i++) {
        kept[i] = recurrence.decay[i] * before;
        before = h[i] = kept[i] + recurrence.drive[i];
      }

      // dh_t = C_t grad_t + decay_{t+1} dh_{t+1} is the same recurrence from above, in decay_t dh_t.
      S from_above = 0;
#pragma unroll
      for (int i = kItems - 1; i >= 0; i--) from_above = recurrence.decay[i] * (C_n[i] * grad[i] + from_above);
      S after = enter_from_above(recurrence.all_decay, from_above, leaving[r * states + n], lane);
      S dA_n = 0, dB_n[kItems], dC_n[kItems];
#pragma unroll
      for (int i = kItems - 1; i >= 0; i--) {
        const S dh = C_n[i] * grad[i] + after;
        after = recurrence.decay[i] * dh;
        const S dlog = dh * kept[i];  // gradient of the decay's logarithm
        dA_n += dlog * steps.step[i];
        dstep[i] += dlog * A_n;
        ddrive[i] += dh * B_n[i];
        dB_n[i] = dh * (steps.step[i] * steps.u[i]);
        dC_n[i] = grad[i] * h[i];
      }
      dA_n = sum_to_first(dA_n);
      sync_warp();  // all lanes have read the values that are overwritten
      if (lane == 0) {
        leaving[r * states + n] = after;
        dA[r * states + n] += dA_n;
      }
      sync_warp();

      if constexpr (kStates == 1) {
#pragma unroll
        for (int i = 0; i < kItems; i++) {
          dB[i] += dB_n[i];
          dC[i] += dC_n[i];
        }
      } else {
        // The sums that the lane wrote for earlier rows are read back from the cache.
        r > 0 ? span.add(dB_partial + n * b.positions, dB_n) : span.store(dB_partial + n * b.positions, dB_n);
        r > 0 ? span.add(dC_partial + n * b.positions, dC_n) : span.store(dC_partial + n * b.positions, dC_n);
      }
    }

    S du[kItems], ddelta[kItems], dD_r = 0, dbias_r = 0;
#pragma unroll
    for (int i = 0; i < kItems; i++) {
      du[i] = ddrive[i] * steps.step[i] + (in.D ? D * grad[i] : S(0));
      ddelta[i] = (ddrive[i] * steps.u[i] + dstep[i]) * steps.derivative[i];
      dD_r += grad[i] * steps.u[i];
      dbias_r += ddelta[i];
    }
    way.store(du_rows[r], du);
    span.store(static_cast<In*>(b.ddelta) + place * in.length, ddelta);
    dD_r = sum_to_first(dD_r);
    dbias_r = sum_to_first(dbias_r);
    if (lane == 0) {
      dD[r] += dD_r;
      dbias[r] += dbias_r;
    }
  }

  template <int kItems, bool kWhole>
  MMSPARX_INLINE void tile(int start) {
    S dB[kItems] = {}, dC[kItems] = {};
#pragma unroll 1
    for (int r = 0; r < rows; r++) tile_of_row<kWhole>(r, start, dB, dC);
    if constexpr (kStates == 1) {
      const Span<kWhole> span{int(in.length), start + lane * kItems, vector, false};
      span.store(dB_partial, dB);
      span.store(dC_partial, dC);
    }
  }

  MMSPARX_INLINE void run() {
    const bool first = end == in.length;
    const int64_t place = batch * in.dim + first_row;
    S* const between = static_cast<S*>(b.leaving) + place * states;
    for (int i = lane; i < rows * states; i += kLanes) {
      dA[i] = 0;
      leaving[i] = first ? S(0) : between[i];
    }
    for (int i = lane; i < rows; i += kLanes) dD[i] = dbias[i] = 0;
    sync_warp();
    const int whole = end / kTile<kManyItems> * kTile<kManyItems>;
    if (end - whole > kTile<kFewItems>) {
      tile<kManyItems, false>(whole);
    } else if (end > whole) {
      tile<kFewItems, false>(whole);
    }
    for (int start = whole - kTile<kManyItems>; start >= begin; start -= kTile<kManyItems>) {
      tile<kManyItems, true>(start);
    }
    sync_warp();
    const auto add = [first](double& sum, S part) { sum = first ? double(part) : sum + double(part); };
    for (int i = lane; i < rows * states; i += kLanes) {
      add(b.dA_partial[place * states + i], dA[i]);
      if (begin > 0) between[i] = leaving[i];
    }
    for (int i = lane; i < rows; i += kLanes) {
      add(b.dD_partial[place + i], dD[i]);
      add(b.dbias_partial[place + i], dbias[i]);
    }
  }
};

// Runs the backward of a group's block `number`.
template <typename In, int kStates>
MMSPARX_INLINE void differentiate_rows(const BackwardArguments& arguments, unsigned char* memory, int64_t batch,
                                       uint32_t group, uint32_t group_dim, uint32_t number, Lines<const In> u,
                                       Lines<const In> grad, Lines<In> du, bool reversed) {
  using S = State<In>;
  const Backward& b = arguments.backward;
  const Inputs& in = b.inputs;
  const int states = kStates ? kStates : int(in.states);
  const int64_t before = number * arguments.rows, left = group_dim - before;
  const int64_t partials = ((batch * in.groups + group) * b.blocks + number) * states * b.positions - arguments.begin;
  S* const shared = reinterpret_cast<S*>(memory);
  BackwardRows<In, kStates>{
      b,
      in,
      vector_of(arguments),
      int(threadIdx.x),
      states,
      int(left < arguments.rows ? left : arguments.rows),
      arguments.begin,
      arguments.end,
      batch,
      group * group_dim + before,
      u,
      grad,
      du,
      reversed,
      matrices_of<In>(in.B, batch, group),
      matrices_of<In>(in.C, batch, group),
      static_cast<S*>(b.dB_partial) + partials,
      static_cast<S*>(b.dC_partial) + partials,
      shared,
      shared + arguments.rows * states,
      shared + arguments.rows * 2 * states,
      shared + arguments.rows * (2 * states + 1),
  }
      .run();
}

template <typename In, int kStates>
MMSPARX_KERNEL(kLanes, kBackwardBlocks<State<In>>)
backward_kernel(const BackwardArguments arguments) {
  MMSPARX_SHARED_MEMORY(memory);
  const Backward& b = arguments.backward;
  const Inputs& in = b.inputs;
  const uint32_t blocks = uint32_t(b.blocks), groups = uint32_t(in.groups), group_dim = uint32_t(in.dim) / groups;
  const uint32_t unit = blockIdx.x;
  const uint32_t group = unit / blocks % groups, batch = unit / blocks / groups, number = unit % blocks;
  const int64_t first_row = int64_t(group) * group_dim + number * arguments.rows;
  differentiate_rows<In, kStates>(
      arguments, memory, batch, group, group_dim, number, lines_of<In>(in.u, batch, first_row),
      lines_of<In>(b.grad, batch, first_row),
      {static_cast<In*>(b.du) + (batch * in.dim + first_row) * in.length, in.length}, false);
}

struct AddArguments {
  Backward backward;
  int begin, end;  // positions of the part
};

// Sums dB and dC over the blocks.
template <typename In>
MMSPARX_KERNEL(kAddThreads, 1)
add_partials_kernel(const AddArguments arguments) {
  using S = State<In>;
  const Backward& b = arguments.backward;
  const Inputs& in = b.inputs;
  const int64_t count = arguments.end - arguments.begin, i = int64_t(blockIdx.x) * kAddThreads + threadIdx.x;
  const int64_t line = quotient_of(i, count), position = i - line * count;
  const int64_t sequence = quotient_of(line, in.states), state = line - sequence * in.states;
  if (sequence >= in.batch * in.groups) return;
  const int64_t size = in.states * b.positions, first = sequence * b.blocks * size + state * b.positions + position;
  S dB = 0, dC = 0;
  for (int64_t block = 0; block < b.blocks; block++) {
    dB += static_cast<const S*>(b.dB_partial)[first + block * size];
    dC += static_cast<const S*>(b.dC_partial)[first + block * size];
  }
  const int64_t to = (sequence * in.states + state) * in.length + arguments.begin + position;
  narrow(dB, static_cast<In*>(b.dB)[to]);
  narrow(dC, static_cast<In*>(b.dC)[to]);
}

}  // namespace
}  // namespace mmsparx
