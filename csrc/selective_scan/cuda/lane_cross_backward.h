// The backward of the cross scan of many maps, with a lane per row of a direction.

#pragma once

#include "cross_backward.h"
#include "lane_backward.h"

namespace mmsparx {
namespace {

template <typename In>
MMSPARX_KERNEL(kLanes, kLaneBackwardBlocks<In>)
lane_cross_backward_kernel(const CrossBackwardArguments arguments) {
  MMSPARX_SHARED_MEMORY(memory);
  const Backward& b = arguments.plain.backward;
  const Inputs& in = b.inputs;
  const LaneBackwardUnit unit(b);
  const bool order = unit.group % 2;
  const int64_t channel = unit.number * kLanes, row = unit.group * arguments.channels + channel;
  const Lines<const In> u = lines_of<In>(order ? arguments.columns : in.u, unit.batch, channel);
  const Lines<const In> grad = lines_of<In>(order ? arguments.grad_columns : b.grad, unit.batch, channel);
  In* const du = static_cast<In*>(arguments.lines) + (unit.batch * in.dim + row) * in.length;
  differentiate_rows_by_lanes<In>(b, vector_of(arguments.plain), unit, u, grad, du, unit.group >= 2, memory);
}

}  // namespace
}  // namespace mmsparx
