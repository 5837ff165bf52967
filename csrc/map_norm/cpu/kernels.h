// The CPU kernels, compiled once per instruction set.

#pragma once

#include "../../common/cpu/prelude.h"
#include "../map_norm.h"

namespace mmsparx::map_norm {

// There are two passes forward and two backward. A unit of work is a part of a sample for the statistics, and a channel
// of a sample for the other passes. The caller provides `scratch`, one per thread.
struct Kernels {
  int64_t (*scratch_bytes)(const Inputs&);
  void (*statistics)(const Forward&, int64_t begin, int64_t end, void* scratch);
  void (*normalise)(const Forward&, int64_t begin, int64_t end, void* scratch);
  void (*sums)(const Backward&, int64_t begin, int64_t end, void* scratch);
  void (*gradient)(const Backward&, int64_t begin, int64_t end, void* scratch);
};

// Null if this build has no kernels for the instruction set.
const Kernels* avx512_kernels();
const Kernels* avx2_kernels();
const Kernels* baseline_kernels();

}  // namespace mmsparx::map_norm
