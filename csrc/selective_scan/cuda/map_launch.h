// From the contract to the launches of a map's scan.

#pragma once

#include "lane_map_backward.h"
#include "lane_map_forward.h"
#include "lane_small_map_forward.h"
#include "launch.h"
#include "map_backward.h"
#include "map_forward.h"
#include "transpose.h"

namespace mmsparx {
namespace {

// Networks scan maps with one state; those with 16 are left to the kernels for any number.
template <typename In>
constexpr KernelsByStates<MapForwardArguments> kMapForwardKernels = {
    map_forward_kernel<In, 1>, map_forward_kernel<In, 0>, map_forward_kernel<In, 0>};
template <typename In>
constexpr KernelsByStates<MapForwardArguments> kSmallMapForwardKernels = {
    small_map_forward_kernel<In, 1>, small_map_forward_kernel<In, 0>, small_map_forward_kernel<In, 0>};
template <typename In>
constexpr KernelsByStates<MapBackwardArguments> kMapBackwardKernels = {
    map_backward_kernel<In, 1>, map_backward_kernel<In, 0>, map_backward_kernel<In, 0>};

// With so much shared memory to a block, a multiprocessor of a Hopper GPU holds 8
// warps, of 16 bits at 56 x 56 pixels 14, where 32 find registers: fewer to wait by turns, but 7 tensors as large as
// the map less to move. To be weighed by measurement.
constexpr size_t kMapSharedBytes = kSharedBytes;

template <typename In>
LaneSmallMapArguments lane_small_map_arguments(const Forward& f, const GpuMap& map) {
  const Inputs& in = f.inputs;
  const bool one_after_the_other = in.u.row_stride == in.length && in.delta.row_stride == in.length;
  LaneSmallMapArguments arguments{f, map.channels, map.height, map.width, false, 0};
  arguments.flat = one_after_the_other && LaneSmallMapMemory<In>(in).padding == 0;
  arguments.vector = (arguments.flat ? 16 : 4) / sizeof(In);
  const int64_t sample = map.channels * in.length;  // also what is left of it for a block of less than 32 channels
  for (const Rows& rows : {in.u, in.delta}) {
    align<In>(arguments.vector, rows.data, {rows.batch_stride, arguments.flat ? sample : rows.row_stride});
    if (!arguments.flat) align<In>(arguments.vector, rows.data, {in.length});
  }
  return arguments;
}

enum class MapForwardWay {
  kByLanesInBlock,  // lane_small_map_forward.h
  kByLanes,         // lane_map_forward.h
  kInBlock,         // map_forward.h, in shared memory
  kInMemory,        // map_forward.h
};

template <typename In>
MapForwardWay way_of_map_forward(const Inputs& in) {
  const bool fits_in_block = MapMemory<In>(in).bytes() <= kMapSharedBytes;
  if constexpr (sizeof(State<In>) == 4) {
    if (goes_by_lanes<In>(in)) {
      if (LaneSmallMapMemory<In>(in).bytes() <= most_shared_bytes()) return MapForwardWay::kByLanesInBlock;
      // Where a map fits into a block, lanes move 19 maps through memory, not 7, for half the instructions: of 16 bits
      // they take less time on paper, of 32 more. To be weighed by measurement.
      if (sizeof(In) == 2 || !fits_in_block) return MapForwardWay::kByLanes;
    }
  }
  return fits_in_block ? MapForwardWay::kInBlock : MapForwardWay::kInMemory;
}

template <typename In>
int64_t map_forward_lines(const Inputs& in) {
  const MapForwardWay way = way_of_map_forward<In>(in);
  return way == MapForwardWay::kByLanes ? 4 : way == MapForwardWay::kInMemory ? 2 : 0;
}

// A working memory's rows: (batch, orders, channels, length), contiguous, of which one order.
template <typename In>
Rows rows_of(const void* data, const GpuMap& map, int orders = 1, int order = 0) {
  const int64_t length = map.height * map.width, size = map.channels * length;
  return {static_cast<const In*>(data) + order * size, orders * size, length};
}

// See transpose_kernel.
template <typename In, int kFrom, int kAdded>
void launch_transpose(const TransposeArguments& arguments, Stream stream) {
  using Value = typename Column<In, kFrom>::Value;
  const int64_t squares = ceil_div(arguments.height, kLanes) * int64_t(ceil_div(arguments.width, kLanes));
  launch(transpose_kernel<In, kFrom, kAdded>, ceil_div(arguments.maps * squares, kTransposeWarps),
         kTransposeWarps * kLanes, kTransposeBytes<Value>, stream, arguments);
}

// to = from, transposed.
template <typename In>
void transpose(const Rows& from, void* to, const GpuMap& map, int64_t batch, Stream stream) {
  launch_transpose<In, 1, 0>({batch * map.channels, map.channels, map.height, map.width, {from}, {}, to}, stream);
}

// to = the map's lines along rows plus those along columns: one of each, or two, there and back.
template <typename In>
void merge(const GpuMap& map, int lines, void* to, int64_t batch, Stream stream) {
  TransposeArguments arguments{batch * map.channels, map.channels, map.width, map.height, {}, {}, to};
  for (int i = 0; i < lines; i++) {
    (i % 2 ? arguments.from : arguments.added)[i / 2] = rows_of<In>(map.lines, map, lines, i);
  }
  lines == 4 ? launch_transpose<In, 2, 2>(arguments, stream) : launch_transpose<In, 1, 1>(arguments, stream);
}

template <typename In>
void run_map_forward(const Forward& f, const GpuMap& map, void* on) {
  const Inputs& in = f.inputs;
  const Stream stream = static_cast<Stream>(on);
  MapForwardArguments arguments{f,         map.channels,         map.height, map.width, rows_of<In>(map.columns, map),
                                map.lines, widest_vector<In>(in)};
  if (in.batch * map.channels == 0) return;
  const MapForwardWay way = way_of_map_forward<In>(in);
  if constexpr (sizeof(State<In>) == 4) {
    if (way == MapForwardWay::kByLanesInBlock) {
      launch(lane_small_map_forward_kernel<In>, unsigned(in.batch * ceil_div(map.channels, kLanes)),
             kDirections * kLanes, LaneSmallMapMemory<In>(in).bytes(), stream, lane_small_map_arguments<In>(f, map));
      return;
    }
  }
  if (way == MapForwardWay::kInBlock) {
    launch(kSmallMapForwardKernels<In>(in.states), unsigned(in.batch * map.channels), kMapWarps * kLanes,
           MapMemory<In>(in).bytes(), stream, arguments);
    return;
  }
  for (const void* const data : {map.columns, map.lines}) align<In>(arguments.vector, data, {});
  transpose<In>(in.u, map.columns, map, in.batch, stream);
  if constexpr (sizeof(State<In>) == 4) {
    if (way == MapForwardWay::kByLanes) {
      launch(lane_map_forward_kernel<In>, lane_blocks(in), kLaneWarps * kLanes, kLaneWarps * sizeof(LaneMemory<In>),
             stream, LaneMapArguments{f, arguments.columns, map.lines, arguments.vector});
      merge<In>(map, 4, f.out, in.batch, stream);
      return;
    }
  }
  launch(kMapForwardKernels<In>(in.states), ceil_div(in.batch * 2 * map.channels, kForwardWarps),
         kForwardWarps * kLanes, forward_shared_bytes<State<In>>(in.states), stream, arguments);
  merge<In>(map, 2, f.out, in.batch, stream);
}

template <typename In>
int64_t map_backward_lines(const Inputs& in) {
  return backward_goes_by_lanes<In>(in) ? 4 : 2;
}

template <typename In>
void run_map_backward(const Backward& b, const GpuMap& map, void* on) {
  const Inputs& in = b.inputs;
  const Stream stream = static_cast<Stream>(on);
  MapBackwardArguments arguments{backward_arguments<In>(b), map.channels, rows_of<In>(map.columns, map),
                                 rows_of<In>(map.grad_columns, map), map.lines, false};
  for (const void* const data : {map.columns, map.grad_columns, map.lines}) {
    align<In>(arguments.plain.vector, data, {});
  }
  const bool any = in.batch * map.channels > 0;
  if (any) {
    transpose<In>(in.u, map.columns, map, in.batch, stream);
    transpose<In>(b.grad, map.grad_columns, map, in.batch, stream);
  }
  if constexpr (sizeof(State<In>) == 4) {
    if (any && backward_goes_by_lanes<In>(in)) {
      launch(lane_map_backward_kernel<In>, unsigned(in.batch * 4 * b.blocks), kLanes, sizeof(LaneBackwardMemory<In>),
             stream, arguments);
      add_partials<In>(arguments.plain, 0, 4, stream);
      merge<In>(map, 4, b.du, in.batch, stream);
      return;
    }
  }
  for (const bool back : {false, true}) {
    arguments.back = back;
    for_parts(b, [&](int begin, int end) {
      arguments.plain.begin = begin;
      arguments.plain.end = end;
      if (any) {
        launch(kMapBackwardKernels<In>(in.states), unsigned(in.batch * 2 * b.blocks), kLanes,
               arguments.plain.rows * row_bytes<State<In>>(in.states), stream, arguments);
      }
      add_partials<In>(arguments.plain, 2 * back, 2, stream);
    });
  }
  if (any) merge<In>(map, 2, b.du, in.batch, stream);
}

}  // namespace
}  // namespace mmsparx
