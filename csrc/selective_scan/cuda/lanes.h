// What the lanes of a warp do together, and the functions a scan needs.

#pragma once

#include "platform.h"
//
#include "../../common/numbers.h"

namespace mmsparx {
namespace {

constexpr int kLanes = 32;

// Nothing stays nothing, though a product of growing "decays" may be infinite.
template <typename S>
MMSPARX_INLINE S after(S decay, S drive, S before) {
  return before == 0 ? drive : decay * before + drive;
}

// Every lane has a map h -> decay * h + drive. What `before` has become when it reaches a lane from below,
// after the maps of all lanes before it (Hillis and Steele: log2 steps of composing maps).
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

// The same from above, where the last lane's map is the first that `before` goes through.
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

// Over all lanes, in lane 0.
template <typename S>
MMSPARX_INLINE S sum_to_first(S x) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) x += shuffle_down(x, distance);
  return x;
}

// 2^x; floats below the smallest normal number become 0.
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

// Of numbers of a usual size: what is below the smallest normal number becomes 0.
MMSPARX_INLINE float quotient(float a, float b) {
#if defined(__CUDA_ARCH__)
  float quotient;
  asm("div.approx.ftz.f32 %0, %1, %2;" : "=f"(quotient) : "f"(a), "f"(b));
  return quotient;
#else
  return a / b;
#endif
}
MMSPARX_INLINE double quotient(double a, double b) { return a / b; }

// Not by the hardware's logarithm, which is exact to 2^-22 absolutely: nothing for a small e.
MMSPARX_INLINE float log1p_of_fraction(float e) { return log1p_in_float(e); }
MMSPARX_INLINE double log1p_of_fraction(double e) { return log1p(e); }

constexpr double kLog2E = 1.4426950408889634;

// exp(x). Rounding x * log2(e) alone makes an error of |x| * 2^-24, relative to the result: kPrecise undoes it.
template <bool kPrecise>
MMSPARX_INLINE float exponential(float x) {
  constexpr float kHigh = float(kLog2E), kLow = float(kLog2E - double(kHigh)), kLn2 = 0.693147181f;
  const float exponent = x * kHigh, power = power_of_two(exponent);
  if constexpr (!kPrecise) return power;
  const float lost = fmaf(x, kLow, fmaf(x, kHigh, -exponent));
  return power == 0 ? power : fmaf(power, lost * kLn2, power);  // lost is NaN where x is infinite
}
template <bool>
MMSPARX_INLINE double exponential(double x) {
  return power_of_two(x * kLog2E);
}

// log(1 + exp(x)) without a threshold, and its derivative, the sigmoid of x. NaN stays NaN by way of e.
template <bool kPrecise, typename S>
MMSPARX_INLINE S softplus(S x, S& derivative) {
  const S e = exponential<kPrecise>(x < 0 ? x : -x);
  derivative = quotient(x < 0 ? e : S(1), 1 + e);
  return log1p_of_fraction(e) + (x > 0 ? x : S(0));
}

}  // namespace
}  // namespace mmsparx
