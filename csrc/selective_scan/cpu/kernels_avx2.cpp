// The kernels for x86-64 with AVX2.

#include "kernels.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define MMSPARX_VECTOR_BYTES 32
#include "dispatch.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace mmsparx {
const Kernels* avx2_kernels() {
  static constexpr Kernels kernels = kernels_named("avx2");
  return &kernels;
}
}  // namespace mmsparx

#else

namespace mmsparx {
const Kernels* avx2_kernels() { return nullptr; }
}  // namespace mmsparx

#endif
