// All kernels for one type of inputs.

#pragma once

#include "launch.h"
#include "map_launch.h"

namespace mmsparx {
namespace {

template <typename In>
GpuKernels kernels_of() {
  return {backward_blocks<In>,   backward_positions<In>, run_forward<In>,        run_backward<In>,
          map_forward_lines<In>, run_map_forward<In>,    map_backward_lines<In>, run_map_backward<In>};
}

}  // namespace
}  // namespace mmsparx
