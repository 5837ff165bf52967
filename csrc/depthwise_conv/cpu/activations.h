// GELU and SiLU of vectors, and their derivatives.

#pragma once

#include "../../common/cpu/vector.h"
#include "kernels.h"

namespace mmsparx::depthwise {
namespace {

// Returns the normal distribution function of z, and in `bell` exp(-z^2 / 2), its density up to a factor.
MMSPARX_INLINE Vector<float> normal_distribution(Vector<float> z, Vector<float>& bell) {
  const Vector<float> below = negative_magnitude<float>(z);
  bell = exp<true>(below * below * -0.5f);
  // Below 0 the function is the bell times a function that a polynomial in u = 1 / (1 + c |z|) approximates: minimax to
  // 3e-8 of the value, down to z = -8.
  const Vector<float> u = 1.0f / (1.0f - below * 0.22826087474822998f);
  Vector<float> p = u * -0.08189146965742111f + 0.31187963485717773f;
  p = p * u - 0.31014466285705566f;
  p = p * u + 0.3248894214630127f;
  p = p * u - 0.04075907543301582f;
  p = p * u + 0.11851219087839127f;
  p = p * u + 0.08612532913684845f;
  p = p * u + 0.09138859063386917f;
  const Vector<float> tail = p * u * bell;
  return z > 0 ? 1.0f - tail : tail;
}

// Doubles are for verification, where libm's accuracy counts and speed does not.
MMSPARX_INLINE Vector<double> normal_distribution(Vector<double> z, Vector<double>& bell) {
  Vector<double> result = {};
  for (int i = 0; i < kLanes<double>; i++) {
    bell[i] = __builtin_exp(-0.5 * z[i] * z[i]);
    result[i] = 0.5 * __builtin_erfc(-0.70710678118654752440 * z[i]);
  }
  return result;
}

// Returns the sigmoid of z, and that of -z in `of_negative`: 1 minus the first would have few digits.
template <typename T>
MMSPARX_INLINE Vector<T> sigmoid(Vector<T> z, Vector<T>& of_negative) {
  const Vector<T> one = broadcast<T>(1), e = exp<true>(negative_magnitude<T>(z)), larger = one / (one + e);
  of_negative = z < 0 ? larger : e * larger;
  return z < 0 ? e * larger : larger;
}

template <Activation A, typename T>
MMSPARX_INLINE Vector<T> activate(Vector<T> z) {
  if constexpr (A == Activation::kGelu) {
    Vector<T> bell = {};
    return z * normal_distribution(z, bell);
  } else if constexpr (A == Activation::kSilu) {
    Vector<T> of_negative = {};
    return z * sigmoid<T>(z, of_negative);
  } else {
    return z;
  }
}

// Activates numbers in place. This is a pass of its own because the operations of one vector depend on each other:
// after those of a convolution, the processor would not look far enough ahead to start the next vector.
template <Activation A, typename T>
MMSPARX_INLINE void activate_all(T* numbers, int64_t count) {
  if constexpr (A != Activation::kNone) {
    int64_t i = 0;
    for (; i + kLanes<T> <= count; i += kLanes<T>) store(numbers + i, activate<A, T>(load(numbers + i)));
    if (i < count) {
      const int left = int(count - i);
      store_first(numbers + i, activate<A, T>(load_first(numbers + i, left)), left);
    }
  }
}

template <Activation A, typename T>
MMSPARX_INLINE Vector<T> derivative(Vector<T> z) {
  if constexpr (A == Activation::kGelu) {
    Vector<T> bell = {};
    const Vector<T> distribution = normal_distribution(z, bell);
    return distribution + z * bell * T(0.39894228040143267794);
  } else if constexpr (A == Activation::kSilu) {
    Vector<T> of_negative = {};
    const Vector<T> s = sigmoid<T>(z, of_negative);
    return s + s * z * of_negative;
  } else {
    return broadcast<T>(1);
  }
}

}  // namespace
}  // namespace mmsparx::depthwise
