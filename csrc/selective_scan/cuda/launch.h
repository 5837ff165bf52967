// The launches of the scan: the choice of a kernel, the number of blocks and the width of accesses.

#pragma once

#include <initializer_list>

#include "backward.h"
#include "forward.h"
#include "kernels.h"
#include "lane_backward.h"
#include "lane_forward.h"

namespace mmsparx {
namespace {

template <typename Argument>
struct KernelsByStates {
  using Kernel = void (*)(Argument);
  Kernel one, sixteen, any;

  Kernel operator()(int64_t states) const { return states == 1 ? one : states == 16 ? sixteen : any; }
};

// Halves `vector` until all strides are multiples of that many items, and the address is a multiple of their bytes, or
// of 16.
template <typename T>
void align(int& vector, const void* data, std::initializer_list<int64_t> strides) {
  const auto misaligned = [&] {
    const int64_t bytes = vector * int64_t(sizeof(T));
    if (reinterpret_cast<uintptr_t>(data) % (bytes < 16 ? bytes : 16)) return true;
    for (const int64_t stride : strides) {
      if (stride % vector) return true;
    }
    return false;
  };
  while (vector > 1 && misaligned()) vector /= 2;
}

template <typename In>
int widest_vector(const Inputs& in) {
  int vector = 8;
  align<In>(vector, in.u.data, {in.length, in.u.batch_stride, in.u.row_stride});
  align<In>(vector, in.delta.data, {in.delta.batch_stride, in.delta.row_stride});
  for (const Matrices& matrices : {in.B, in.C}) {
    align<In>(vector, matrices.data, {matrices.batch_stride, matrices.group_stride, matrices.state_stride});
  }
  return vector;
}

inline unsigned ceil_div(int64_t a, int64_t b) { return unsigned((a + b - 1) / b); }

template <typename In>
constexpr KernelsByStates<ForwardArguments> kForwardKernels = {forward_kernel<In, 1>, forward_kernel<In, 16>,
                                                              forward_kernel<In, 0>};
template <typename In>
constexpr KernelsByStates<BackwardArguments> kBackwardKernels = {backward_kernel<In, 1>, backward_kernel<In, 16>,
                                                                backward_kernel<In, 0>};

// Returns whether kernels use a lane per row instead of a warp.
template <typename In>
bool goes_by_lanes(const Inputs& in) {
  return sizeof(State<In>) == 4 && in.states == 1 && lanes_fill_device(in.batch * in.dim, in.group_dim());
}

// The backward does so only if shared memory has room for a warp for each of a multiprocessor's four schedulers: 100 KB
// are enough for 16 bits, 164 KB also for float.
template <typename In>
bool backward_goes_by_lanes(const Inputs& in) {
  if constexpr (sizeof(State<In>) == 4) {
    return goes_by_lanes<In>(in) && blocks_that_fit(sizeof(LaneBackwardMemory<In>)) >= 4;
  }
  return false;
}

inline unsigned lane_blocks(const Inputs& in) {
  return ceil_div(in.batch * in.groups * ceil_div(in.group_dim(), kLanes), kLaneWarps);
}

template <typename In>
void run_forward(const Forward& f, void* stream) {
  const Inputs& in = f.inputs;
  ForwardArguments arguments{f, widest_vector<In>(in)};
  align<In>(arguments.vector, f.out, {});
  if constexpr (sizeof(State<In>) == 4) {
    if (in.batch * in.dim > 0 && goes_by_lanes<In>(in)) {
      launch(lane_forward_kernel<In>, lane_blocks(in), kLaneWarps * kLanes, kLaneWarps * sizeof(LaneMemory<In>),
             static_cast<Stream>(stream), LaneForwardArguments{f, arguments.vector});
      return;
    }
  }
  const unsigned blocks = ceil_div(in.batch * in.dim, kForwardWarps);
  if (blocks == 0) return;
  launch(kForwardKernels<In>(in.states), blocks, kForwardWarps * kLanes,
         forward_shared_bytes<State<In>>(in.states), static_cast<Stream>(stream), arguments);
}

template <typename In>
int64_t backward_blocks(const Inputs& in) {
  return ceil_div(in.group_dim(), backward_goes_by_lanes<In>(in) ? kLanes : backward_rows<State<In>>(in));
}

// Returns the number of positions of a part, in whole tiles and at least one: as many as have partial sums half as
// large as delta. This is the whole length, unless blocks have few rows or there are many states. With a lane per row a
// block has 32 rows, and the sums of all positions take an eighth of the memory of a 16-bit delta.
template <typename In>
int64_t backward_positions(const Inputs& in) {
  if (backward_goes_by_lanes<In>(in)) return in.length;
  constexpr int64_t kStep = kTile<kManyItems>;
  const int64_t of_a_position = 2 * in.groups * backward_blocks<In>(in) * in.states * int64_t(sizeof(State<In>));
  const int64_t most = in.dim * in.length * int64_t(sizeof(In)) / 2 / (of_a_position > 0 ? of_a_position : 1);
  if (most >= in.length) return in.length;
  const int64_t positions = most < kStep ? kStep : most / kStep * kStep;
  return positions < in.length ? positions : in.length;
}

template <typename In>
BackwardArguments backward_arguments(const Backward& b) {
  using S = State<In>;
  BackwardArguments arguments{b, backward_rows<S>(b.inputs), widest_vector<In>(b.inputs), 0, int(b.inputs.length)};
  align<In>(arguments.vector, b.grad.data, {b.grad.batch_stride, b.grad.row_stride});
  align<In>(arguments.vector, b.ddelta, {});
  for (const void* const to : {b.dB_partial, b.dC_partial}) align<S>(arguments.vector, to, {});
  return arguments;
}

// Calls run(begin, end) for the parts of a row, from the last to the first.
template <typename Run>
void for_parts(const Backward& b, const Run& run) {
  const int64_t length = b.inputs.length;
  for (int64_t begin = (length - 1) / b.positions * b.positions; begin >= 0; begin -= b.positions) {
    const int64_t end = begin + b.positions;
    run(int(begin), int(end < length ? end : length));
  }
}

// Sums the partial gradients of B and C of the part in `arguments`.
template <typename In>
void add_partials(const BackwardArguments& arguments, Stream stream) {
  const Inputs& in = arguments.backward.inputs;
  const int64_t sums = in.batch * in.groups * in.states * (arguments.end - arguments.begin);
  if (sums == 0) return;
  launch(add_partials_kernel<In>, ceil_div(sums, kAddThreads), kAddThreads, 0, stream,
         AddArguments{arguments.backward, arguments.begin, arguments.end});
}

template <typename In>
void run_backward(const Backward& b, void* on) {
  const Inputs& in = b.inputs;
  const Stream stream = static_cast<Stream>(on);
  BackwardArguments arguments = backward_arguments<In>(b);
  align<In>(arguments.vector, b.du, {});
  const unsigned blocks = unsigned(in.batch * in.groups * b.blocks);
  if constexpr (sizeof(State<In>) == 4) {
    if (blocks > 0 && backward_goes_by_lanes<In>(in)) {
      launch(lane_backward_kernel<In>, blocks, kLanes, sizeof(LaneBackwardMemory<In>), stream, arguments);
      add_partials<In>(arguments, stream);
      return;
    }
  }
  for_parts(b, [&](int begin, int end) {
    arguments.begin = begin;
    arguments.end = end;
    if (blocks > 0) {
      launch(kBackwardKernels<In>(in.states), blocks, kLanes, arguments.rows * row_bytes<State<In>>(in.states), stream,
             arguments);
    }
    add_partials<In>(arguments, stream);
  });
}

}  // namespace
}  // namespace mmsparx
