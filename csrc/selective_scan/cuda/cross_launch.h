// The launches of the cross scan.

#pragma once

#include "cross_backward.h"
#include "cross_forward.h"
#include "lane_cross_backward.h"
#include "lane_cross_forward.h"
#include "lane_small_cross_forward.h"
#include "launch.h"
#include "transpose.h"

namespace mmsparx {
namespace {

// Networks use cross scans with one state; 16 states use the kernels for any number.
template <typename In>
constexpr KernelsByStates<CrossForwardArguments> kCrossForwardKernels = {
    cross_forward_kernel<In, 1>, cross_forward_kernel<In, 0>, cross_forward_kernel<In, 0>};
template <typename In>
constexpr KernelsByStates<CrossForwardArguments> kSmallCrossForwardKernels = {
    small_cross_forward_kernel<In, 1>, small_cross_forward_kernel<In, 0>, small_cross_forward_kernel<In, 0>};
template <typename In>
constexpr KernelsByStates<CrossBackwardArguments> kCrossBackwardKernels = {
    cross_backward_kernel<In, 1>, cross_backward_kernel<In, 0>, cross_backward_kernel<In, 0>};

// With this much shared memory per block, a multiprocessor of a Hopper GPU holds 8 warps (14 for 16-bit maps of 56 x 56
// pixels), while registers allow 32: fewer warps hide latency, but 7 fewer tensors as large as the map are moved. This
// has to be measured.
constexpr size_t kCrossSharedBytes = kSharedBytes;

template <typename In>
LaneSmallCrossArguments lane_small_cross_arguments(const CrossForward& f) {
  const Inputs& in = f.inputs;
  const bool one_after_the_other = in.u.row_stride == in.length && in.delta.row_stride == in.length;
  LaneSmallCrossArguments arguments{f, in.group_dim(), f.cross.height, f.cross.width, false, 0};
  arguments.flat = one_after_the_other && LaneSmallCrossMemory<In>(in).padding == 0;
  arguments.vector = (arguments.flat ? 16 : 4) / sizeof(In);
  const int64_t sample = in.group_dim() * in.length;  // also aligns the last block, of less than 32 channels
  for (const Rows& rows : {in.u, in.delta}) {
    align<In>(arguments.vector, rows.data, {rows.batch_stride, arguments.flat ? sample : rows.row_stride});
    if (!arguments.flat) align<In>(arguments.vector, rows.data, {in.length});
  }
  return arguments;
}

enum class CrossForwardWay {
  kByLanesInBlock,  // lane_small_cross_forward.h
  kByLanes,         // lane_cross_forward.h
  kInBlock,         // cross_forward.h, in shared memory
  kInMemory,        // cross_forward.h
};

template <typename In>
CrossForwardWay way_of_cross_forward(const Inputs& in) {
  const bool fits_in_block = SmallCrossMemory<In>(in).bytes() <= kCrossSharedBytes;
  if constexpr (sizeof(State<In>) == 4) {
    if (goes_by_lanes<In>(in)) {
      if (LaneSmallCrossMemory<In>(in).bytes() <= most_shared_bytes()) return CrossForwardWay::kByLanesInBlock;
      // For a map that fits into a block, lanes move 19 maps through memory instead of 7, but take two thirds of the
      // instructions. On paper both ways take as long for 16 bits (2.2 ps per element), where shared memory leaves room
      // for few warps, and lanes take longer for 32. This has to be measured.
      if (sizeof(In) == 2 || !fits_in_block) return CrossForwardWay::kByLanes;
    }
  }
  return fits_in_block ? CrossForwardWay::kInBlock : CrossForwardWay::kInMemory;
}

template <typename In>
int64_t cross_forward_lines(const Inputs& in) {
  const CrossForwardWay way = way_of_cross_forward<In>(in);
  return way == CrossForwardWay::kByLanes ? 4 : way == CrossForwardWay::kInMemory ? 2 : 0;
}

// Returns the rows of one order of a working memory (batch, orders, channels, length), which is contiguous.
template <typename In>
Rows rows_of(const void* data, const Inputs& in, int orders = 1, int order = 0) {
  const int64_t size = in.group_dim() * in.length;
  return {static_cast<const In*>(data) + order * size, orders * size, in.length};
}

// Launches transpose_kernel.
template <typename In, int kFrom, int kAdded>
void launch_transpose(const TransposeArguments& arguments, Stream stream) {
  using Value = typename Column<In, kFrom>::Value;
  const int64_t squares = ceil_div(arguments.height, kLanes) * int64_t(ceil_div(arguments.width, kLanes));
  launch(transpose_kernel<In, kFrom, kAdded>, ceil_div(arguments.maps * squares, kTransposeWarps),
         kTransposeWarps * kLanes, kTransposeBytes<Value>, stream, arguments);
}

// Transposes `from` to `to`.
template <typename In>
void transpose(const Rows& from, void* to, const Inputs& in, const CrossInputs& cross, Stream stream) {
  const int64_t channels = in.group_dim();
  launch_transpose<In, 1, 0>({in.batch * channels, channels, cross.height, cross.width, {from}, {}, to}, stream);
}

// Writes the sum of the lines along rows and columns to `to`: one of each, or two, forwards and backwards.
template <typename In>
void merge(const void* lines, int count, void* to, const Inputs& in, const CrossInputs& cross, Stream stream) {
  const int64_t channels = in.group_dim();
  TransposeArguments arguments{in.batch * channels, channels, cross.width, cross.height, {}, {}, to};
  for (int i = 0; i < count; i++) {
    (i % 2 ? arguments.from : arguments.added)[i / 2] = rows_of<In>(lines, in, count, i);
  }
  count == 4 ? launch_transpose<In, 2, 2>(arguments, stream) : launch_transpose<In, 1, 1>(arguments, stream);
}

template <typename In>
void run_cross_forward(const CrossForward& f, const CrossMemory& memory, void* on) {
  const Inputs& in = f.inputs;
  const Stream stream = static_cast<Stream>(on);
  const int64_t channels = in.group_dim(), maps = in.batch * channels;
  if (maps == 0) return;
  CrossForwardArguments arguments{f,
                                  channels,
                                  f.cross.height,
                                  f.cross.width,
                                  rows_of<In>(memory.columns, in),
                                  memory.lines,
                                  widest_vector<In>(in)};
  const CrossForwardWay way = way_of_cross_forward<In>(in);
  if constexpr (sizeof(State<In>) == 4) {
    if (way == CrossForwardWay::kByLanesInBlock) {
      launch(lane_small_cross_forward_kernel<In>, unsigned(in.batch * ceil_div(channels, kLanes)),
             kDirections * kLanes, LaneSmallCrossMemory<In>(in).bytes(), stream, lane_small_cross_arguments<In>(f));
      return;
    }
  }
  if (way == CrossForwardWay::kInBlock) {
    launch(kSmallCrossForwardKernels<In>(in.states), unsigned(maps), kCrossWarps * kLanes,
           SmallCrossMemory<In>(in).bytes(), stream, arguments);
    return;
  }
  for (const void* const data : {memory.columns, memory.lines}) align<In>(arguments.vector, data, {});
  transpose<In>(in.u, memory.columns, in, f.cross, stream);
  if constexpr (sizeof(State<In>) == 4) {
    if (way == CrossForwardWay::kByLanes) {
      launch(lane_cross_forward_kernel<In>, lane_blocks(in), kLaneWarps * kLanes, kLaneWarps * sizeof(LaneMemory<In>),
             stream, LaneCrossArguments{f, arguments.columns, memory.lines, arguments.vector});
      merge<In>(memory.lines, 4, f.out, in, f.cross, stream);
      return;
    }
  }
  launch(kCrossForwardKernels<In>(in.states), ceil_div(2 * maps, kForwardWarps),
         kForwardWarps * kLanes, forward_shared_bytes<State<In>>(in.states), stream, arguments);
  merge<In>(memory.lines, 2, f.out, in, f.cross, stream);
}

template <typename In>
void launch_cross_backward(const CrossBackwardArguments& arguments, unsigned blocks, Stream stream) {
  const Inputs& in = arguments.plain.backward.inputs;
  if constexpr (sizeof(State<In>) == 4) {
    if (backward_goes_by_lanes<In>(in)) {
      launch(lane_cross_backward_kernel<In>, blocks, kLanes, sizeof(LaneBackwardMemory<In>), stream, arguments);
      return;
    }
  }
  launch(kCrossBackwardKernels<In>(in.states), blocks, kLanes, arguments.plain.rows * row_bytes<State<In>>(in.states),
         stream, arguments);
}

template <typename In>
void run_cross_backward(const CrossBackward& b, const CrossMemory& memory, void* on) {
  const Inputs& in = b.inputs;
  const Stream stream = static_cast<Stream>(on);
  CrossBackwardArguments arguments{backward_arguments<In>(b), in.group_dim(), rows_of<In>(memory.columns, in),
                                   rows_of<In>(memory.grad_columns, in), memory.lines};
  for (const void* const data : {memory.columns, memory.grad_columns, memory.lines}) {
    align<In>(arguments.plain.vector, data, {});
  }
  const unsigned blocks = unsigned(in.batch * in.groups * b.blocks);
  if (blocks > 0) {
    transpose<In>(in.u, memory.columns, in, b.cross, stream);
    transpose<In>(b.grad, memory.grad_columns, in, b.cross, stream);
  }
  for_parts(b, [&](int begin, int end) {
    arguments.plain.begin = begin;
    arguments.plain.end = end;
    if (blocks > 0) launch_cross_backward<In>(arguments, blocks, stream);
    add_partials<In>(arguments.plain, stream);
  });
  if (blocks > 0) merge<In>(memory.lines, kDirections, b.du, in, b.cross, stream);
}

}  // namespace
}  // namespace mmsparx
