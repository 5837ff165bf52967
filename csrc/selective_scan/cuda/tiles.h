// The addresses of a warp's rows, and computations on a tile that forward and backward share.

#pragma once

#include "../selective_scan.h"
#include "items.h"
#include "lanes.h"

namespace mmsparx {
namespace {

// Rows are cut into tiles of the positions that a warp holds, kItems adjacent ones per lane; every tile begins at a
// saved state. The last tile of a row may be partial (not kWhole): only the first `valid` items of a lane are valid
// then, and none if `valid` is not positive. If a tile of few items is enough for it, fewer lanes idle, and each takes
// fewer steps.
constexpr int kManyItems = 8, kFewItems = 2;
template <int kItems>
constexpr int kTile = kItems * kLanes;

// Returns the `vector` of a launch (see Items). The report on the kernels fixes it, to count the instructions of one
// width of access.
template <typename Arguments>
MMSPARX_INLINE int vector_of(const Arguments& arguments) {
#if defined(MMSPARX_VECTOR)
  return MMSPARX_VECTOR;
#else
  return arguments.vector;
#endif
}

// Returns a / b of non-negative numbers, several times as fast if both have 32 bits.
MMSPARX_INLINE int64_t quotient_of(int64_t a, int64_t b) {
  return (a | b) >> 32 == 0 ? int64_t(uint32_t(a) / uint32_t(b)) : a / b;
}

template <typename In>
MMSPARX_INLINE const In* row_of(const Rows& rows, int64_t batch, int64_t row) {
  return static_cast<const In*>(rows.data) + batch * rows.batch_stride + row * rows.row_stride;
}

template <typename In>
MMSPARX_INLINE const In* matrices_of(const Matrices& matrices, int64_t batch, int64_t group) {
  return static_cast<const In*>(matrices.data) + batch * matrices.batch_stride + group * matrices.group_stride;
}

template <typename S>
MMSPARX_INLINE S value_or_zero(const void* values, int64_t row) {
  return values ? static_cast<const S*>(values)[row] : S(0);
}

// The place of a lane's items in a row of `length` positions, which is read from its first to its last or, if
// `reversed`, from its last to its first.
template <bool kWhole>
struct Span {
  int length, first;  // `first` of the items, in the order of reading
  int vector;         // see Items
  bool reversed;

  MMSPARX_INLINE int valid() const { return length - first; }

  template <typename T, int kItems>
  MMSPARX_INLINE void load(Items<T, kItems>& items, const T* row) const {
    if (!reversed) return items.template load<kWhole>(row + first, valid(), vector);
    items.template load<kWhole>(row + (length - first - kItems), kItems, vector, kItems - valid());
    items.reverse();
  }

  template <typename T, int kItems>
  MMSPARX_INLINE void store(T* row, const State<T> (&values)[kItems]) const {
    Items<T, kItems> items;
    items.assign(values);
    if (!reversed) return items.template store<kWhole>(row + first, valid(), vector);
    items.reverse();
    items.template store<kWhole>(row + (length - first - kItems), kItems, vector, kItems - valid());
  }

  // Adds values to those in the row.
  template <typename T, int kItems>
  MMSPARX_INLINE void add(T* row, State<T> (&values)[kItems]) const {
    Items<T, kItems> before;
    load(before, row);
#pragma unroll
    for (int i = 0; i < kItems; i++) values[i] += before[i];
    store(row, values);
  }
};

// The quantities of a row's items that are the same for all states. Items that are not valid have a step of 0.
template <typename In, int kItems>
struct Steps {
  using S = State<In>;
  static constexpr bool kPrecise = sizeof(In) == sizeof(S);  // 16-bit inputs are not worth it
  Items<In, kItems> u, delta;
  S step[kItems], derivative[kItems];

  template <bool kWhole>
  MMSPARX_INLINE void make(int valid, S bias, bool use_softplus) {
    if (use_softplus) {  // one branch for all items, so that their softpluses overlap
#pragma unroll
      for (int i = 0; i < kItems; i++) step[i] = softplus<kPrecise>(delta[i] + bias, derivative[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kItems; i++) {
        step[i] = delta[i] + bias;
        derivative[i] = 1;
      }
    }
#pragma unroll
    for (int i = 0; i < kItems; i++) {
      if (!kWhole && i >= valid) step[i] = derivative[i] = 0;
    }
  }
};

// The maps h -> decay * h + drive of a row's items, for one state. Items that are not valid keep the state.
template <typename In, int kItems>
struct Recurrence {
  using S = State<In>;
  S decay[kItems], drive[kItems];
  S all_decay, all_drive;  // the composition of all maps

  template <bool kWhole>
  MMSPARX_INLINE void make(const Steps<In, kItems>& steps, const Items<In, kItems>& B, S A, int valid) {
    const S log2_decay = A * S(kLog2E);
#pragma unroll
    for (int i = 0; i < kItems; i++) {
      decay[i] = power_of_two(steps.step[i] * log2_decay);
      drive[i] = steps.step[i] * steps.u[i] * B[i];
      if (!kWhole && i >= valid) {  // even if A is infinite
        decay[i] = 1;
        drive[i] = 0;
      }
    }
    all_decay = decay[0];
    all_drive = drive[0];
#pragma unroll
    for (int i = 1; i < kItems; i++) {
      all_drive = decay[i] * all_drive + drive[i];
      all_decay *= decay[i];
    }
  }
};

}  // namespace
}  // namespace mmsparx
