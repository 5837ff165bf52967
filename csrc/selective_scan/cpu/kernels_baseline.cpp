// The kernels for the instructions that the compiler uses by default: SSE2 on x86-64, NEON on ARM.

#include "kernels.h"

#define MMSPARX_VECTOR_BYTES 16
#include "dispatch.h"

namespace mmsparx {
const Kernels* baseline_kernels() { return &kKernels; }
}  // namespace mmsparx
