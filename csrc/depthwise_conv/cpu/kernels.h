// The CPU kernels, compiled once per instruction set.

#pragma once

#include "../../common/cpu/prelude.h"
#include "../depthwise_conv.h"

namespace mmsparx::depthwise {

// A unit of work is a plane: one channel of one sample. The caller provides `scratch`, one per thread.
struct Kernels {
  int64_t (*scratch_bytes)(const Inputs&);  // for forward or backward
  void (*forward)(const Forward&, int64_t begin, int64_t end, void* scratch);
  void (*backward)(const Backward&, int64_t begin, int64_t end, void* scratch);
};

// Null if this build has no kernels for the instruction set.
const Kernels* avx512_kernels();
const Kernels* avx2_kernels();
const Kernels* baseline_kernels();

}  // namespace mmsparx::depthwise
