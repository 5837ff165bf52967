// Compiles the functions from here to target_end.h for x86-64 with AVX2.

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define MMSPARX_VECTOR_BYTES 32
