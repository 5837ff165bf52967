// The forward with a warp per row, tile by tile.

#pragma once

#include "tiles.h"

namespace mmsparx {
namespace {

constexpr int kForwardWarps = 4;
// Number of blocks that must fit into a multiprocessor: the largest with which no registers, or hardly any, are
// spilled.
template <typename S, int kStates>
constexpr int kForwardBlocks = sizeof(S) == 8 ? 3 : kStates == 1 ? 8 : 5;

struct ForwardArguments {
  Forward forward;
  int vector;  // see Items
};

// Returns the bytes of shared memory that keep states between two tiles. A single state is kept in a register instead.
template <typename S>
size_t forward_shared_bytes(int64_t states) {
  return states == 1 ? 0 : size_t(kForwardWarps * states) * sizeof(S);
}

// The forward of a row. kStates is the number of states, or 0 if it is only known at run time. Out is the type of the
// output: In, or the type of its state.
template <typename In, typename Out, int kStates>
struct ForwardRow {
  using S = State<In>;
  const Inputs& in;
  const int vector, lane, states;
  const In *u, *delta, *B, *C;
  const S* A;
  S bias, D;
  Out* out;
  S* saved;
  S* entering;    // states that enter the tile
  bool reversed;  // the row is read from its end, and results are added to `out` from its end, too
  S only = 0;     // state that enters the tile, if there is only one

  template <int kItems, bool kWhole>
  MMSPARX_INLINE void tile(int start) {
    const int length = int(in.length), first = start + lane * kItems, end = first + kItems;
    const Span<kWhole> span{length, first, vector, false}, way{length, first, vector, reversed};
    const int valid = span.valid();
    Steps<In, kItems> steps;
    // All reads are issued before the first use, since a tile waits for them.
    way.load(steps.u, u);
    span.load(steps.delta, delta);
    Items<In, kItems> B_n, C_n;
    span.load(B_n, B);
    span.load(C_n, C);
    S A_n = A[0];
    steps.template make<kWhole>(valid, bias, in.delta_softplus);
    S y[kItems];
#pragma unroll
    for (int i = 0; i < kItems; i++) y[i] = in.D ? D * steps.u[i] : S(0);
    const bool saves = end % kChunk == 0 ? kWhole || valid > 0 : valid > 0 && valid <= kItems;

#pragma unroll 1
    for (int n = 0; n < states; n++) {
      if (kStates != 1 && n > 0) {
        A_n = A[n];
        span.load(B_n, B + n * in.B.state_stride);
        span.load(C_n, C + n * in.C.state_stride);
      }
      Recurrence<In, kItems> recurrence;
      recurrence.template make<kWhole>(steps, B_n, A_n, valid);
      S h = enter_from_below(recurrence.all_decay, recurrence.all_drive, kStates == 1 ? only : entering[n], lane);
#pragma unroll
      for (int i = 0; i < kItems; i++) {
        h = recurrence.decay[i] * h + recurrence.drive[i];
        y[i] += C_n[i] * h;
      }
      if (saves) saved[((end - 1) / kChunk + 1) * int64_t(states) + n] = h;
      if constexpr (kStates == 1) {
        only = shuffle(h, kLanes - 1);
      } else {
        sync_warp();  // all lanes have read the values that are overwritten
        if (lane == kLanes - 1) entering[n] = h;
        sync_warp();
      }
    }
    reversed ? way.add(out, y) : span.store(out, y);
  }

  MMSPARX_INLINE void run() {
    for (int n = lane; n < states; n += kLanes) {
      saved[n] = 0;
      if constexpr (kStates != 1) entering[n] = 0;
    }
    sync_warp();
    const int length = int(in.length);
    int start = 0;
    for (; length - start >= kTile<kManyItems>; start += kTile<kManyItems>) tile<kManyItems, true>(start);
    if (length - start > kTile<kFewItems>) {
      tile<kManyItems, false>(start);
    } else if (length > start) {
      tile<kFewItems, false>(start);
    }
  }
};

template <typename In, typename Out, int kStates>
MMSPARX_INLINE void scan_row(const Forward& f, int vector, int64_t batch, int64_t group, int64_t row, const In* u,
                             Out* out, State<In>* entering, bool reversed) {
  using S = State<In>;
  const Inputs& in = f.inputs;
  const int lane = threadIdx.x % kLanes, states = kStates ? kStates : int(in.states);
  ForwardRow<In, Out, kStates>{
      in,
      vector,
      lane,
      states,
      u,
      row_of<In>(in.delta, batch, row),
      matrices_of<In>(in.B, batch, group),
      matrices_of<In>(in.C, batch, group),
      static_cast<const S*>(in.A) + row * states,
      value_or_zero<S>(in.delta_bias, row),
      value_or_zero<S>(in.D, row),
      out,
      static_cast<S*>(f.states) + (batch * in.dim + row) * state_count(in.length) * states,
      entering,
      reversed,
  }
      .run();
}

template <typename In, int kStates>
MMSPARX_KERNEL(kForwardWarps* kLanes, (kForwardBlocks<State<In>, kStates>))
forward_kernel(const ForwardArguments arguments) {
  MMSPARX_SHARED_MEMORY(memory);
  const Forward& f = arguments.forward;
  const Inputs& in = f.inputs;
  const int warp = threadIdx.x / kLanes;
  // Rows of a block are adjacent, so that they read the same B and C, mostly from the cache.
  const uint32_t place = blockIdx.x * kForwardWarps + warp;
  if (place >= in.batch * in.dim) return;
  const uint32_t batch = place / uint32_t(in.dim), row = place % uint32_t(in.dim);
  const uint32_t group = row / (uint32_t(in.dim) / uint32_t(in.groups));
  scan_row<In, In, kStates>(f, vector_of(arguments), batch, group, row, row_of<In>(in.u, batch, row),
                            static_cast<In*>(f.out) + int64_t(place) * in.length,
                            reinterpret_cast<State<In>*>(memory) + warp * in.states, false);
}

}  // namespace
}  // namespace mmsparx
