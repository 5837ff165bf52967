// The backward of the cross scan, with a warp for some channels along one direction.

#pragma once

#include "backward.h"

namespace mmsparx {
namespace {

struct CrossBackwardArguments {
  BackwardArguments plain;  // has four groups; u and grad are (batch, channels, length)
  int64_t channels;
  Rows columns, grad_columns;  // u and grad transposed
  void* lines;                 // (batch, 4, channels, length): du of each direction, in the order of rows or columns
};

template <typename In, int kStates>
MMSPARX_KERNEL(kLanes, kBackwardBlocks<State<In>>)
cross_backward_kernel(const CrossBackwardArguments arguments) {
  MMSPARX_SHARED_MEMORY(memory);
  const Backward& b = arguments.plain.backward;
  const Inputs& in = b.inputs;
  const uint32_t blocks = uint32_t(b.blocks), unit = blockIdx.x;
  const uint32_t group = unit / blocks % kDirections, batch = unit / blocks / kDirections, number = unit % blocks;
  const bool order = group % 2;
  const int64_t channels = arguments.channels, channel = number * arguments.plain.rows;
  const Lines<const In> u = lines_of<In>(order ? arguments.columns : in.u, batch, channel);
  const Lines<const In> grad = lines_of<In>(order ? arguments.grad_columns : b.grad, batch, channel);
  const int64_t line = batch * in.dim + group * channels + channel;
  const Lines<In> du = {static_cast<In*>(arguments.lines) + line * in.length, in.length};
  differentiate_rows<In, kStates>(arguments.plain, memory, batch, group, uint32_t(channels), number, u, grad, du,
                                  group >= 2);
}

}  // namespace
}  // namespace mmsparx
