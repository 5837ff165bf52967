// The kernels for x86-64 with AVX2.

#include "kernels.h"

#if defined(__x86_64__)

#include "../../common/cpu/target_avx2.h"
#include "dispatch.h"
#include "../../common/cpu/target_end.h"

namespace mmsparx::depthwise {
const Kernels* avx2_kernels() { return &kKernels; }
}  // namespace mmsparx::depthwise

#else

namespace mmsparx::depthwise {
const Kernels* avx2_kernels() { return nullptr; }
}  // namespace mmsparx::depthwise

#endif
