// The kernels for x86-64 with AVX-512.

#include "kernels.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define MMSPARX_VECTOR_BYTES 64
#include "dispatch.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace mmsparx {
const Kernels* avx512_kernels() {
  static constexpr Kernels kernels = kernels_named("avx512");
  return &kernels;
}
}  // namespace mmsparx

#else

namespace mmsparx {
const Kernels* avx512_kernels() { return nullptr; }
}  // namespace mmsparx

#endif
