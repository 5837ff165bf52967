// The forward of the cross scan of many maps, which are in global memory both by rows and transposed, with a lane per
// row of a direction.

#pragma once

#include "lane_forward.h"

namespace mmsparx {
namespace {

struct LaneCrossArguments {
  Forward forward;  // has four groups; u is (batch, channels, length)
  Rows columns;     // u transposed
  void* lines;      // (batch, 4, channels, length): outputs of each direction, in the order of rows or columns
  int vector;       // see Items
};

template <typename In>
MMSPARX_KERNEL(kLaneWarps* kLanes, kLaneBlocks<In>)
lane_cross_forward_kernel(const LaneCrossArguments arguments) {
  MMSPARX_SHARED_MEMORY(memory);
  const Inputs& in = arguments.forward.inputs;
  const LaneUnit unit(in);
  if (unit.batch >= in.batch) return;
  const Rows u = unit.group % 2 ? arguments.columns : in.u;
  const int64_t first_row = unit.group * in.group_dim() + unit.first;
  In* const lines = static_cast<In*>(arguments.lines) + (unit.batch * in.dim + first_row) * in.length;
  scan_rows_by_lanes<In>(arguments.forward, vector_of(arguments), unit.batch, unit.group, first_row,
                         row_of<In>(u, unit.batch, unit.first), u.row_stride, lines, unit.group >= 2, memory);
}

}  // namespace
}  // namespace mmsparx
