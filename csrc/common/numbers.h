// The element types of inputs and outputs, and their conversion to and from the type of the arithmetic.
//
// The including file must define MMSPARX_INLINE, which declares a small function on its device.

#pragma once

#include <cstdint>

#ifndef MMSPARX_INLINE
#error "MMSPARX_INLINE: expected from the file that includes this one"
#endif

namespace mmsparx {
namespace {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// The type of the state and of all arithmetic.
template <typename T>
struct StateOf {
  using type = float;
};
template <>
struct StateOf<double> {
  using type = double;
};

#if defined(__CUDACC__)

MMSPARX_INLINE float float_from_bits(uint32_t bits) { return __uint_as_float(bits); }
MMSPARX_INLINE uint32_t bits_of(float x) { return __float_as_uint(x); }
MMSPARX_INLINE float widen(Half x) { return __half2float(__ushort_as_half(x.bits)); }
MMSPARX_INLINE void narrow(float x, Half& to) { to.bits = __half_as_ushort(__float2half_rn(x)); }

#else

MMSPARX_INLINE float float_from_bits(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}
MMSPARX_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}

MMSPARX_INLINE float widen(Half x) {
  // Exponent and mantissa move to their places in a float, and multiplication by 2^112 corrects the exponent's bias,
  // for subnormal numbers too. Infinity and NaN have the largest exponent in both types.
  const uint32_t magnitude = uint32_t(x.bits & 0x7fff) << 13;
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16;
  const uint32_t finite = bits_of(float_from_bits(magnitude) * 0x1p112f);
  return float_from_bits(sign | (magnitude >= 0x0f800000 ? magnitude | 0x7f800000 : finite));
}

MMSPARX_INLINE void narrow(float x, Half& to) {
  const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffff;
  // Normal numbers are rounded in integer arithmetic, subnormal ones by a float addition whose last place is Half's
  // smallest step.
  const uint32_t normal = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  const uint32_t subnormal = bits_of(float_from_bits(magnitude) + 0.5f) - 0x3f000000;
  const uint32_t special = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;  // 65520 and above round to infinity
  const uint32_t result = magnitude >= 0x477ff000 ? special : magnitude < 0x38800000 ? subnormal : normal;
  to.bits = uint16_t(result | (bits >> 16 & 0x8000));
}

#endif

MMSPARX_INLINE float widen(float x) { return x; }
MMSPARX_INLINE double widen(double x) { return x; }
MMSPARX_INLINE float widen(BFloat16 x) { return float_from_bits(uint32_t(x.bits) << 16); }

// Rounds to nearest, ties to even, like the function above; NaN stays NaN.
MMSPARX_INLINE void narrow(float x, float& to) { to = x; }
MMSPARX_INLINE void narrow(double x, double& to) { to = x; }
MMSPARX_INLINE void narrow(float x, BFloat16& to) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  to.bits = uint16_t((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
#endif
}

}  // namespace
}  // namespace mmsparx
