// 16-bit numbers to float and back, and rows of inputs to what a tile reads.

#pragma once

#include "vector.h"

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

MMSPARX_INLINE float widen(float x) { return x; }
MMSPARX_INLINE double widen(double x) { return x; }
MMSPARX_INLINE float widen(BFloat16 x) { return float_from_bits(uint32_t(x.bits) << 16); }
MMSPARX_INLINE float widen(Half x) {
  // Exponent and mantissa move to float's places; the product with 2^112 mends the exponent's bias, for
  // subnormal numbers too. Infinity and NaN have the largest exponent in both.
  const uint32_t magnitude = uint32_t(x.bits & 0x7fff) << 13;
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16;
  const uint32_t finite = bits_of(float_from_bits(magnitude) * 0x1p112f);
  return float_from_bits(sign | (magnitude >= 0x0f800000 ? magnitude | 0x7f800000 : finite));
}

// To the nearest, ties to even; NaN stays NaN.
MMSPARX_INLINE void narrow(float x, float& to) { to = x; }
MMSPARX_INLINE void narrow(double x, double& to) { to = x; }
MMSPARX_INLINE void narrow(float x, BFloat16& to) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  to.bits = uint16_t((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
}
MMSPARX_INLINE void narrow(float x, Half& to) {
  const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffff;
  // The float unit rounds: normal numbers in integer arithmetic, subnormal ones by a sum whose last place
  // is Half's smallest step.
  const uint32_t normal = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  const uint32_t subnormal = bits_of(float_from_bits(magnitude) + 0.5f) - 0x3f000000;
  const uint32_t special = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;  // from 65520 on it rounds to infinity
  const uint32_t result = magnitude >= 0x477ff000 ? special : magnitude < 0x38800000 ? subnormal : normal;
  to.bits = uint16_t(result | (bits >> 16 & 0x8000));
}

// `count` numbers for a tile: where they are, or converted to T in `buffer`.
template <typename T, typename In>
MMSPARX_INLINE const T* stage(const In* from, int count, T* buffer) {
  if constexpr (sizeof(In) == sizeof(T)) {
    return from;
  } else {
    for (int i = 0; i < count; i++) buffer[i] = widen(from[i]);
    return buffer;
  }
}

// Where a tile may write its output: `to` itself, or `buffer`, which `unstage` then converts.
template <typename T, typename Out>
MMSPARX_INLINE T* destination(Out* to, T* buffer) {
  if constexpr (sizeof(Out) == sizeof(T)) {
    return to;
  } else {
    return buffer;
  }
}

template <typename T, typename Out>
MMSPARX_INLINE void unstage(const T* from, int count, Out* to) {
  if (static_cast<const void*>(from) == to) return;
  for (int i = 0; i < count; i++) narrow(from[i], to[i]);
}

}  // namespace
}  // namespace mmsparx
