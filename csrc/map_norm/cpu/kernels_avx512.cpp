// The kernels for x86-64 with AVX-512.

#include "kernels.h"

#if defined(__x86_64__)

#include "../../common/cpu/target_avx512.h"
#include "dispatch.h"
#include "../../common/cpu/target_end.h"

namespace mmsparx::map_norm {
const Kernels* avx512_kernels() { return &kKernels; }
}  // namespace mmsparx::map_norm

#else

namespace mmsparx::map_norm {
const Kernels* avx512_kernels() { return nullptr; }
}  // namespace mmsparx::map_norm

#endif
