// Collective operations of the lanes of a warp, and the functions that a scan needs.

#pragma once

#include "platform.h"

namespace mmsparx {
namespace {

constexpr int kLanes = 32;

// Returns decay * before + drive. A state of zero stays zero, even if a product of growing "decays" is infinite.
template <typename S>
MMSPARX_INLINE S after(S decay, S drive, S before) {
  return before == 0 ? drive : decay * before + drive;
}

// Every lane has a map h -> decay * h + drive. Returns the state that enters a lane from below: `before`, after the
// maps of all lanes before it (Hillis and Steele: log2 steps that compose maps).
template <typename S>
MMSPARX_INLINE S enter_from_below(S decay, S drive, S before, int lane) {
#pragma unroll
  for (int distance = 1; distance < kLanes; distance *= 2) {
    const S other_decay = shuffle_up(decay, distance), other_drive = shuffle_up(drive, distance);
    if (lane >= distance) {
      drive = decay * other_drive + drive;
      decay *= other_decay;
    }
  }
  const S all_decay = shuffle_up(decay, 1), all_drive = shuffle_up(drive, 1);
  return lane > 0 ? after(all_decay, all_drive, before) : before;
}

// Does the same from above: the last lane's map is the first that `before` goes through.
template <typename S>
MMSPARX_INLINE S enter_from_above(S decay, S drive, S before, int lane) {
#pragma unroll
  for (int distance = 1; distance < kLanes; distance *= 2) {
    const S other_decay = shuffle_down(decay, distance), other_drive = shuffle_down(drive, distance);
    if (lane + distance < kLanes) {
      drive = decay * other_drive + drive;
      decay *= other_decay;
    }
  }
  const S all_decay = shuffle_down(decay, 1), all_drive = shuffle_down(drive, 1);
  return lane + 1 < kLanes ? after(all_decay, all_drive, before) : before;
}

// Sums over all lanes; lane 0 gets the sum.
template <typename S>
MMSPARX_INLINE S sum_to_first(S x) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) x += shuffle_down(x, distance);
  return x;
}

// Returns 2^x; floats below the smallest normal number become 0.
MMSPARX_INLINE float power_of_two(float x) {
#if defined(__CUDA_ARCH__)
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#else
  return exp2f(x);
#endif
}
MMSPARX_INLINE double power_of_two(double x) { return exp2(x); }

// Returns 1 / x for numbers of moderate size.
MMSPARX_INLINE float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(x));
  return reciprocal;
#else
  return 1 / x;
#endif
}
MMSPARX_INLINE double reciprocal(double x) { return 1 / x; }

// Returns a * b + c, clamped to [0, 1]; NaN becomes 0.
MMSPARX_INLINE float saturated_fma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(result) : "f"(a), "f"(b), "f"(c));
  return result;
#else
  const float result = fmaf(a, b, c);
  return result > 0 ? (result < 1 ? result : 1.f) : 0.f;
#endif
}

constexpr double kLog2E = 1.4426950408889634;

// Returns exp(-|x|). Rounding |x| * log2(e) alone causes a relative error of |x| * 2^-24, which kPrecise corrects. What
// remains is the 2^-22 of the hardware's power and the |x| * 3e-9 of ln(2) in float.
template <bool kPrecise>
MMSPARX_INLINE float decaying_exponential(float x) {
  constexpr float kLn2 = 0.693147181f;
  if constexpr (!kPrecise) return power_of_two(fabsf(x) * -float(kLog2E));
  // The factor is slightly too large, so that the rounding error is positive, and saturation only affects the NaN of
  // infinity.
  const float exponent = fabsf(x) * -1.44269526f, power = power_of_two(exponent);
  return fmaf(power, saturated_fma(exponent, -kLn2, -fabsf(x)), power);
}
template <bool>
MMSPARX_INLINE double decaying_exponential(double x) {
  return exp(-fabs(x));
}

// Returns log(1 + e) + x for e in [0, 1]: e P(e) + x, minimax to 3.3e-8 of the logarithm. The hardware's logarithm has
// an absolute error of 2^-22, which is too large for a small e.
MMSPARX_INLINE float log_of_one_plus(float e, float x) {
  float p = fmaf(e, 0.0053654225f, -0.0300683f);
  p = fmaf(p, e, 0.07920883f);
  p = fmaf(p, e, -0.13754188f);
  p = fmaf(p, e, 0.19153848f);
  p = fmaf(p, e, -0.24857217f);
  p = fmaf(p, e, 0.3332133f);
  p = fmaf(p, e, -0.49999648f);
  p = fmaf(p, e, 1.f);
  return fmaf(p, e, x);
}
MMSPARX_INLINE double log_of_one_plus(double e, double x) { return log1p(e) + x; }

// Returns log(1 + exp(x)), without a threshold, and its derivative, the sigmoid of x. NaN propagates through e.
template <bool kPrecise, typename S>
MMSPARX_INLINE S softplus(S x, S& derivative) {
  const S e = decaying_exponential<kPrecise>(x), of_magnitude = reciprocal(1 + e);
  derivative = x < 0 ? e * of_magnitude : of_magnitude;
  return log_of_one_plus(e, x > 0 ? x : S(0));
}

}  // namespace
}  // namespace mmsparx
