// Helpers shared by the kernels of all instruction sets, and the only system headers that kernels may include.
//
// A kernels_*.cpp includes this file, then chooses an instruction set with a pragma (target_*.h), then includes the
// kernels. The choice is a pragma rather than a compiler flag so that any build system compiles them alike.

#pragma once

#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mmsparx {

template <int... I>
using Indices = std::integer_sequence<int, I...>;
template <int N>
using Range = std::make_integer_sequence<int, N>;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace mmsparx
