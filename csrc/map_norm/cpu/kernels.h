// The CPU kernels, once per instruction set.

#pragma once

#include "../../common/cpu/prelude.h"
#include "../map_norm.h"

namespace mmsparx::map_norm {

// Two passes forward, two backward. A unit of work is a part of a sample for the statistics, and a channel of a sample
// for all else. `scratch` is the caller's, one per thread.
struct Kernels {
  int64_t (*scratch_bytes)(const Inputs&);
  void (*statistics)(const Forward&, int64_t begin, int64_t end, void* scratch);
  void (*normalise)(const Forward&, int64_t begin, int64_t end, void* scratch);
  void (*sums)(const Backward&, int64_t begin, int64_t end, void* scratch);
  void (*gradient)(const Backward&, int64_t begin, int64_t end, void* scratch);
};

// Null where this build has none for this kind of machine.
const Kernels* avx512_kernels();
const Kernels* avx2_kernels();
const Kernels* baseline_kernels();

}  // namespace mmsparx::map_norm
