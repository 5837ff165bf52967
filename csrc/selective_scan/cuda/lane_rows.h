// The scan of a row by one lane, position by position, for one state. It needs no shuffles and a third of the
// instructions of a warp per row, whatever the length, but 32 times as many rows to fill a GPU.

#pragma once

#include "tiles.h"

namespace mmsparx {
namespace {

// Returns log2(1 + e) + x for e in [0, 1]. The logarithm is e P(e), minimax to a relative error of 2e-7.
MMSPARX_INLINE float log2_of_one_plus(float e, float x) {
  float p = fmaf(e, -0.012319473f, 0.063607894f);
  p = fmaf(p, e, -0.15535189f);
  p = fmaf(p, e, 0.25600976f);
  p = fmaf(p, e, -0.35339484f);
  p = fmaf(p, e, 0.48006371f);
  p = fmaf(p, e, -0.72131008f);
  p = fmaf(p, e, 1.4426948f);
  return fmaf(p, e, x);
}

// The recurrence of a row. For 16-bit inputs with a softplus, steps are in units of ln(2), since the hardware computes
// powers of 2: this saves two products. The caller multiplies B by the unit.
template <typename In>
struct LaneRow {
  static_assert(sizeof(State<In>) == 4, "what the lanes compute in");
  static constexpr bool kPrecise = sizeof(In) == sizeof(float);
  bool use_softplus, use_D;
  float of_delta, bias, A, D, h = 0;

  static MMSPARX_INLINE bool counts_in_ln2(const Inputs& in) { return !kPrecise && in.delta_softplus; }
  static MMSPARX_INLINE float unit(const Inputs& in) { return counts_in_ln2(in) ? 0.693147181f : 1.f; }

  MMSPARX_INLINE LaneRow(const Inputs& in, int64_t row)
      : use_softplus(in.delta_softplus),
        use_D(in.D),
        of_delta(counts_in_ln2(in) ? float(kLog2E) : 1.f),
        bias(of_delta * value_or_zero<float>(in.delta_bias, row)),
        A(static_cast<const float*>(in.A)[row] * (counts_in_ln2(in) ? 1.f : float(kLog2E))),
        D(value_or_zero<float>(in.D, row)) {}

  // Turns deltas into steps, in place. There is one branch for all items, so that their softpluses overlap.
  template <int kItems>
  MMSPARX_INLINE void make_steps(float (&x)[kItems]) const {
#pragma unroll
    for (int i = 0; i < kItems; i++) x[i] = fmaf(x[i], of_delta, bias);
    if (!use_softplus) return;
#pragma unroll
    for (int i = 0; i < kItems; i++) {
      // log(1 + exp(x)) = log(1 + exp(-|x|)) + max(x, 0). NaN propagates through the power.
      const float positive = x[i] > 0 ? x[i] : 0.f;
      if constexpr (kPrecise) {
        x[i] = log_of_one_plus(decaying_exponential<true>(x[i]), positive);
      } else {
        x[i] = log2_of_one_plus(power_of_two(-fabsf(x[i])), positive);
      }
    }
  }

  // Advances the state by a position and returns the output there.
  MMSPARX_INLINE float advance(float u, float step, float B, float C) {
    h = fmaf(power_of_two(step * A), h, step * u * B);
    return use_D ? fmaf(D, u, C * h) : C * h;
  }
};

}  // namespace
}  // namespace mmsparx
