// From the contract to the launches of a map's scan.

#pragma once

#include "launch.h"
#include "map_backward.h"
#include "map_forward.h"
#include "transpose.h"

namespace mmsparx {
namespace {

// Maps are scanned with one state; kernels for 16 of them would take long to compile for nobody.
template <typename Argument>
struct MapKernels {
  using Kernel = void (*)(Argument);
  Kernel one, any;

  Kernel operator()(int64_t states) const { return states == 1 ? one : any; }
};

template <typename In>
constexpr MapKernels<MapForwardArguments> kMapForwardKernels = {map_forward_kernel<In, kManyItems, 1>,
                                                               map_forward_kernel<In, kManyItems, 0>};
template <typename In, int kItems>
constexpr MapKernels<MapForwardArguments> kSmallMapForwardKernels = {small_map_forward_kernel<In, kItems, 1>,
                                                                    small_map_forward_kernel<In, kItems, 0>};
template <typename In, int kItems>
constexpr MapKernels<MapBackwardArguments> kMapBackwardKernels = {map_backward_kernel<In, kItems, 1>,
                                                                 map_backward_kernel<In, kItems, 0>};

template <typename In>
bool map_fits(const Inputs& in) {
  constexpr size_t kSharedBytes = 48 << 10;  // what a block has everywhere without being asked for
  return MapMemory<In>(in).bytes() <= kSharedBytes;
}

// (batch, channels, length), contiguous.
inline Rows contiguous(const void* data, int64_t channels, int64_t length) {
  return {data, channels * length, length};
}

// to = from, whose maps are (height, width), transposed, plus `added`.
template <typename In>
void transpose(const Rows& from, const Rows& added, void* to, int64_t batch, int64_t channels, int64_t height,
               int64_t width, Stream stream) {
  const int64_t squares = ceil_div(height, kLanes) * int64_t(ceil_div(width, kLanes));
  launch(transpose_kernel<In>, ceil_div(batch * channels * squares, kTransposeWarps), kTransposeWarps * kLanes,
         kTransposeBytes<In>, stream, TransposeArguments{batch * channels, channels, height, width, from, added, to});
}

// to = the sums along rows and those along columns.
template <typename In>
void merge(const GpuMap& map, int64_t batch, void* to, Stream stream) {
  const int64_t length = map.height * map.width, size = map.channels * length;
  const Rows along_rows{map.lines, 2 * size, length}, along_columns{static_cast<In*>(map.lines) + size, 2 * size, length};
  transpose<In>(along_columns, along_rows, to, batch, map.channels, map.width, map.height, stream);
}

template <typename In>
void run_map_forward(const Forward& f, const GpuMap& map, void* on) {
  const Inputs& in = f.inputs;
  const Stream stream = static_cast<Stream>(on);
  MapForwardArguments arguments{f,           map.channels, map.height,           map.width,
                                map.columns, map.lines,    widest_vector<In>(in)};
  if (in.batch * map.channels == 0) return;
  if (map_fits<In>(in)) {
    const auto& kernels =
        has_few_items(in) ? kSmallMapForwardKernels<In, kFewItems> : kSmallMapForwardKernels<In, kManyItems>;
    launch(kernels(in.states), unsigned(in.batch * map.channels), kMapWarps * kLanes, MapMemory<In>(in).bytes(), stream,
           arguments);
    return;
  }
  for (const void* const data : {map.columns, map.lines}) align<In>(arguments.vector, data, {});
  transpose<In>(in.u, {}, map.columns, in.batch, map.channels, map.height, map.width, stream);
  launch(kMapForwardKernels<In>(in.states), ceil_div(in.batch * 2 * map.channels, kForwardWarps),
         kForwardWarps * kLanes, forward_shared_bytes<State<In>>(in.states), stream, arguments);
  merge<In>(map, in.batch, f.out, stream);
}

template <typename In>
void run_map_backward(const Backward& b, const GpuMap& map, void* on) {
  const Inputs& in = b.inputs;
  const Stream stream = static_cast<Stream>(on);
  MapBackwardArguments arguments{backward_arguments<In>(b), map.channels,
                                 contiguous(map.columns, map.channels, in.length),
                                 contiguous(map.grad_columns, map.channels, in.length), map.lines};
  for (const void* const data : {map.columns, map.grad_columns, map.lines}) {
    align<In>(arguments.plain.vector, data, {});
  }
  if (in.batch * map.channels > 0) {
    transpose<In>(in.u, {}, map.columns, in.batch, map.channels, map.height, map.width, stream);
    transpose<In>(b.grad, {}, map.grad_columns, in.batch, map.channels, map.height, map.width, stream);
    const auto& kernels = has_few_items(in) ? kMapBackwardKernels<In, kFewItems> : kMapBackwardKernels<In, kManyItems>;
    launch(kernels(in.states), unsigned(in.batch * 2 * b.blocks), kLanes,
           arguments.plain.rows * row_bytes<State<In>>(in.states), stream, arguments);
    merge<In>(map, in.batch, b.du, stream);
  }
  add_partials<In>(arguments.plain, stream);
}

}  // namespace
}  // namespace mmsparx
