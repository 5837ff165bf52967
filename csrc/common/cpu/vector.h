// Vectors of the instruction set that this file is compiled for, and functions of them.
//
// They are GCC's and Clang's vector extensions: the same source compiles to AVX-512, AVX2, SSE2 or NEON. Only the few
// functions that compilers translate badly use intrinsics. The file is included once per instruction set, after the
// pragma that chooses it (see prelude.h). Nothing of the standard library may be instantiated here: the linker would
// keep one copy for all instruction sets, and a machine without AVX-512 could end up with the AVX-512 copy.

#pragma once

#include "prelude.h"

#ifndef MMSPARX_VECTOR_BYTES
#error "MMSPARX_VECTOR_BYTES: expected the bytes of a vector, from the file that includes this one"
#endif

#define MMSPARX_INLINE inline __attribute__((always_inline))
#include "../numbers.h"

namespace mmsparx {
namespace {

template <typename T>
struct Integer;
template <>
struct Integer<float> {
  using type = int32_t;
};
template <>
struct Integer<double> {
  using type = int64_t;
};

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(MMSPARX_VECTOR_BYTES)));
  typedef typename Integer<T>::type mask __attribute__((vector_size(MMSPARX_VECTOR_BYTES)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;
template <typename T>
using Mask = typename VectorOf<T>::mask;
template <typename T>
constexpr int kLanes = MMSPARX_VECTOR_BYTES / sizeof(T);

template <typename T>
MMSPARX_INLINE Vector<T> load(const T* from) {
  Vector<T> v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}

template <typename T>
MMSPARX_INLINE void store(T* to, Vector<T> v) {
  __builtin_memcpy(to, &v, sizeof(v));
}

template <typename T>
MMSPARX_INLINE Vector<T> broadcast(T x) {
  return Vector<T>{} + x;
}

// Returns the lane numbers 0, 1, 2, ...
template <typename T, int... I>
MMSPARX_INLINE Mask<T> lane_numbers(Indices<I...>) {
  return Mask<T>{I...};
}

// Returns the first `count` lanes of v, followed by `last`.
template <typename T>
MMSPARX_INLINE Vector<T> first_lanes(Vector<T> v, int64_t count, T last) {
  using Int = typename Integer<T>::type;
  return lane_numbers<T>(Range<kLanes<T>>{}) < Int(count) ? v : broadcast(last);
}

// Maximum and minimum by intrinsics, since comparing and selecting compiles to three instructions. If x is NaN, so is
// the result. (The masks select all lanes: GCC warns about the functions without them.)
#if defined(__x86_64__) && MMSPARX_VECTOR_BYTES == 64
MMSPARX_INLINE Vector<float> at_least(float low, Vector<float> x) { return _mm512_maskz_max_ps(0xffff, broadcast(low), x); }
MMSPARX_INLINE Vector<float> at_most(float high, Vector<float> x) { return _mm512_maskz_min_ps(0xffff, broadcast(high), x); }
#elif defined(__x86_64__) && MMSPARX_VECTOR_BYTES == 32
MMSPARX_INLINE Vector<float> at_least(float low, Vector<float> x) { return _mm256_max_ps(broadcast(low), x); }
MMSPARX_INLINE Vector<float> at_most(float high, Vector<float> x) { return _mm256_min_ps(broadcast(high), x); }
#elif defined(__x86_64__)
MMSPARX_INLINE Vector<float> at_least(float low, Vector<float> x) { return _mm_max_ps(broadcast(low), x); }
MMSPARX_INLINE Vector<float> at_most(float high, Vector<float> x) { return _mm_min_ps(broadcast(high), x); }
#else
MMSPARX_INLINE Vector<float> at_least(float low, Vector<float> x) { return x < low ? broadcast(low) : x; }
MMSPARX_INLINE Vector<float> at_most(float high, Vector<float> x) { return x > high ? broadcast(high) : x; }
#endif
MMSPARX_INLINE Vector<double> at_least(double low, Vector<double> x) { return x < low ? broadcast(low) : x; }

// Loads or stores the first `count` lanes, fewer than a vector has. Loads fill the other lanes with 0, and no memory
// beyond the `count` numbers is touched.
#if defined(__x86_64__) && MMSPARX_VECTOR_BYTES == 64
MMSPARX_INLINE Vector<float> load_first(const float* from, int count) {
  return _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
}
MMSPARX_INLINE void store_first(float* to, Vector<float> v, int count) {
  _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), v);
}
#elif defined(__x86_64__) && MMSPARX_VECTOR_BYTES == 32
MMSPARX_INLINE Vector<float> load_first(const float* from, int count) {
  return _mm256_maskload_ps(from, __m256i(lane_numbers<float>(Range<8>{}) < count));
}
// A masked store would take some 20 cycles on AMD processors.
MMSPARX_INLINE void store_first(float* to, Vector<float> v, int count) {
  __m128 part = _mm256_castps256_ps128(v);
  if (count & 4) {
    _mm_storeu_ps(to, part);
    part = _mm256_extractf128_ps(v, 1);
    to += 4;
  }
  if (count & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(to), part);
    part = _mm_movehl_ps(part, part);
    to += 2;
  }
  if (count & 1) _mm_store_ss(to, part);
}
#endif
template <typename T>
MMSPARX_INLINE Vector<T> load_first(const T* from, int count) {
  Vector<T> v = {};
  for (int i = 0; i < kLanes<T> - 1; i++) {
    if (i < count) v[i] = from[i];
  }
  return v;
}
template <typename T>
MMSPARX_INLINE void store_first(T* to, Vector<T> v, int count) {
  for (int i = 0; i < kLanes<T> - 1; i++) {
    if (i < count) to[i] = v[i];
  }
}

#if defined(__clang__)
#define MMSPARX_SHUFFLE(T, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MMSPARX_SHUFFLE(T, a, b, ...) __builtin_shuffle(a, b, Mask<T>{__VA_ARGS__})
#endif

// Shifts lanes up: lane i takes lane i - S of v, and the first S lanes take `fill`.
template <int S, typename T, int... I>
MMSPARX_INLINE Vector<T> shift_up(Vector<T> v, Vector<T> fill, Indices<I...>) {
  return MMSPARX_SHUFFLE(T, v, fill, (I >= S ? I - S : kLanes<T> + I)...);
}

// Shifts lanes down: lane i takes lane i + S of v, and the last S lanes take `fill`.
template <int S, typename T, int... I>
MMSPARX_INLINE Vector<T> shift_down(Vector<T> v, Vector<T> fill, Indices<I...>) {
  return MMSPARX_SHUFFLE(T, v, fill, (I + S < kLanes<T> ? I + S : kLanes<T> + I)...);
}

template <int Lane, typename T, int... I>
MMSPARX_INLINE Vector<T> broadcast_lane(Vector<T> v, Indices<I...>) {
  return MMSPARX_SHUFFLE(T, v, v, (I * 0 + Lane)...);
}

// Sums all lanes, halving their number in each step.
template <typename T, int S = kLanes<T> / 2>
MMSPARX_INLINE T sum(Vector<T> v) {
  if constexpr (S == 0) {
    return v[0];
  } else {
    return sum<T, S / 2>(v + shift_down<S, T>(v, Vector<T>{}, Range<kLanes<T>>{}));
  }
}

// Scans lanes upwards: h_i = a_i h_{i-1} + b_i, from the state `before`, which every lane holds (Hillis and Steele:
// log2 steps that compose pairs of affine maps).
template <typename T, int S = 1>
MMSPARX_INLINE Vector<T> scan_up(Vector<T> a, Vector<T> b, Vector<T> before) {
  if constexpr (S == kLanes<T>) {
    return a * before + b;
  } else {
    constexpr auto lanes = Range<kLanes<T>>{};
    b += a * shift_up<S, T>(b, Vector<T>{}, lanes);
    a *= shift_up<S, T>(a, broadcast<T>(1), lanes);
    return scan_up<T, S * 2>(a, b, before);
  }
}

// Scans lanes downwards in the same way: h_i = a_i h_{i+1} + b_i.
template <typename T, int S = 1>
MMSPARX_INLINE Vector<T> scan_down(Vector<T> a, Vector<T> b, Vector<T> after) {
  if constexpr (S == kLanes<T>) {
    return a * after + b;
  } else {
    constexpr auto lanes = Range<kLanes<T>>{};
    b += a * shift_down<S, T>(b, Vector<T>{}, lanes);
    a *= shift_down<S, T>(a, broadcast<T>(1), lanes);
    return scan_down<T, S * 2>(a, b, after);
  }
}

// exp, accurate to an ulp. NaN stays NaN, and results below the smallest normal number become 0. `Bounded` promises
// that x is below 88.
template <bool Bounded = false>
MMSPARX_INLINE Vector<float> exp(Vector<float> x) {
  using V = Vector<float>;
  // Adding 1.5 * 2^23 + 127 rounds to an integer n and leaves n + 127, the exponent of 2^n, in the last bits.
  constexpr float kRound = 12582912.0f + 127.0f;
  x = at_least(-88.0f, x);  // the power below is 0 there
  V shifted = x * 1.44269504088896341f + kRound;
  // 2^127 is the largest power; for a larger x the polynomial overflows, as exp does.
  if constexpr (!Bounded) shifted = at_most(kRound + 127.0f, shifted);
  const V n = shifted - kRound;
  V r = x - n * 0.693359375f;
  r += n * 2.12194440e-4f;
  // 1 + r + r^2 P(r) on |r| <= ln(2) / 2, minimax to 1e-8.
  V p = broadcast(0.001390130608342588f);
  p = p * r + 0.008363200351595879f;
  p = p * r + 0.04166685417294502f;
  p = p * r + 0.16666576266288757f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  Mask<float> bits;
  __builtin_memcpy(&bits, &shifted, sizeof(bits));
  bits <<= 23;
  V power;
  __builtin_memcpy(&power, &bits, sizeof(power));
  return p * power;
}

// Returns log(1 + e) for e in [0, 1], as e + e^2 Q(e) with Q minimax to a relative error of 5e-9.
MMSPARX_INLINE Vector<float> log1p_of_fraction(Vector<float> e) {
  Vector<float> q = e * -0.0032439809292554855f + 0.019851261749863625f;
  q = q * e - 0.056959159672260284f;
  q = q * e + 0.10603617131710052f;
  q = q * e - 0.15305569767951965f;
  q = q * e + 0.19675931334495544f;
  q = q * e - 0.24954132735729218f;
  q = q * e + 0.3332996368408203f;
  q = q * e - 0.4999990165233612f;
  return q * (e * e) + e;
}

// Doubles are for verification, where libm's accuracy counts and speed does not.
template <bool Bounded = false>
MMSPARX_INLINE Vector<double> exp(Vector<double> x) {
  for (int i = 0; i < kLanes<double>; i++) x[i] = __builtin_exp(x[i]);
  return x;
}

MMSPARX_INLINE Vector<double> log1p_of_fraction(Vector<double> e) {
  for (int i = 0; i < kLanes<double>; i++) e[i] = __builtin_log1p(e[i]);
  return e;
}

// Returns -|x|, by setting the sign bit.
template <typename T>
MMSPARX_INLINE Vector<T> negative_magnitude(Vector<T> x) {
  Mask<T> bits, signs;
  const Vector<T> negative_zero = broadcast<T>(0) * T(-1);
  __builtin_memcpy(&bits, &x, sizeof(bits));
  __builtin_memcpy(&signs, &negative_zero, sizeof(signs));
  bits |= signs;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

// Returns log(1 + exp(x)) without a threshold, given e = exp(-|x|).
template <typename T>
MMSPARX_INLINE Vector<T> softplus_of(Vector<T> x, Vector<T> e) {
  return log1p_of_fraction(e) + at_least(T(0), x);
}

// Returns the derivative of softplus, given e = exp(-|x|).
template <typename T>
MMSPARX_INLINE Vector<T> sigmoid_of(Vector<T> x, Vector<T> e) {
  const Vector<T> one = broadcast<T>(1);
  return (x < 0 ? e : one) / (one + e);
}

}  // namespace
}  // namespace mmsparx
