// The backward of the cross scan, with a warp for the rows or the columns of some channels, forwards or, in another
// launch, backwards.

#pragma once

#include "backward.h"

namespace mmsparx {
namespace {

struct CrossBackwardArguments {
  BackwardArguments plain;  // has four groups; u and grad are (batch, channels, length)
  int64_t channels;
  Rows columns, grad_columns;  // u and grad transposed
  void* lines;                 // (batch, 2, channels, length): du along rows and along columns
  bool back;                   // directions 2 and 3, which add to `lines`
};

template <typename In, int kStates>
MMSPARX_KERNEL(kLanes, kBackwardBlocks<State<In>>)
cross_backward_kernel(const CrossBackwardArguments arguments) {
  MMSPARX_SHARED_MEMORY(memory);
  const Backward& b = arguments.plain.backward;
  const Inputs& in = b.inputs;
  const uint32_t blocks = uint32_t(b.blocks), unit = blockIdx.x;
  const uint32_t order = unit / blocks % 2, batch = unit / blocks / 2, number = unit % blocks;
  const int64_t channels = arguments.channels, channel = number * arguments.plain.rows;
  const Lines<const In> u = lines_of<In>(order ? arguments.columns : in.u, batch, channel);
  const Lines<const In> grad = lines_of<In>(order ? arguments.grad_columns : b.grad, batch, channel);
  const int64_t line = (int64_t(batch) * 2 + order) * channels + channel;
  const Lines<In> du = {static_cast<In*>(arguments.lines) + line * in.length, in.length};
  differentiate_rows<In, kStates>(arguments.plain, memory, batch, order + 2 * arguments.back, uint32_t(channels),
                                  number, u, grad, du, arguments.back);
}

}  // namespace
}  // namespace mmsparx
