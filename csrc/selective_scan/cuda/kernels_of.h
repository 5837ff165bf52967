// All kernels for one type of inputs.

#pragma once

#include "cross_launch.h"
#include "launch.h"

namespace mmsparx {
namespace {

template <typename In>
GpuKernels kernels_of() {
  return {backward_blocks<In>,     backward_positions<In>, run_forward<In>,        run_backward<In>,
          cross_forward_lines<In>, run_cross_forward<In>,  run_cross_backward<In>};
}

}  // namespace
}  // namespace mmsparx
