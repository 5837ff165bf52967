// The kernels for x86-64 with AVX2.

#include "kernels.h"

#if defined(__x86_64__)

#include "../../common/cpu/target_avx2.h"
#include "dispatch.h"
#include "../../common/cpu/target_end.h"

namespace mmsparx {
const Kernels* avx2_kernels() { return &kKernels; }
}  // namespace mmsparx

#else

namespace mmsparx {
const Kernels* avx2_kernels() { return nullptr; }
}  // namespace mmsparx

#endif
