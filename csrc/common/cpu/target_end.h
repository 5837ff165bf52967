// Ends the section that target_avx2.h or target_avx512.h begins.

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
