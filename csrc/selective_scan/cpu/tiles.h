// The scan of one row over a tile of positions. Variables are named after the equations in
// mmsparx/ops/selective_scan/interface.py.

#pragma once

#include "../../common/cpu/vector.h"

namespace mmsparx {
namespace {

// Number of positions of a tile: a multiple of kChunk, so that tiles start at saved states, and small enough that a
// tile's arrays stay in the first-level cache.
constexpr int kTile = 256;
// Padding of an array by a vector at either side, since the backward reads beyond the ends.
constexpr int kPadding = 16;

// The inputs of a tile, at contiguous positions.
template <typename T>
struct Tile {
  int count;  // positions
  const T* u;
  const T* delta;
  const T* B;  // of state n at B + n * B_stride
  const T* C;
  int64_t B_stride, C_stride;

  // Reads a vector from position i on, with 0 beyond the end.
  MMSPARX_INLINE Vector<T> read(const T* array, int i) const {
    return i + kLanes<T> <= count ? load(array + i) : load_first(array + i, count - i);
  }
  MMSPARX_INLINE void write(T* array, int i, Vector<T> v) const {
    i + kLanes<T> <= count ? store(array + i, v) : store_first(array + i, v, count - i);
  }
  // Returns v with `last` beyond the end. A step of 0 and a decay of 1 keep the state.
  MMSPARX_INLINE Vector<T> end(int i, Vector<T> v, T last = 0) const {
    return i + kLanes<T> <= count ? v : first_lanes<T>(v, count - i, last);
  }
};

// The parameters of one row.
template <typename T>
struct Channel {
  const T* A;  // per state
  bool has_D;
  T D;
  T delta_bias;
};

// The arrays of a tile are computed one after the other, in short passes over the whole tile. In a single long pass,
// the operations of a vector would wait for each other, and processors look ahead by no more than two vectors.

// Computes the steps of a tile. They are 0 beyond the end, which keeps the state. With Softplus, `steps` also holds an
// intermediate result; with Slopes, the softplus' derivatives are computed, too.
template <typename T, bool Softplus, bool Slopes>
MMSPARX_INLINE void steps_of(const Tile<T>& tile, const Channel<T>& channel, T* steps, T* slopes) {
  constexpr int lanes = kLanes<T>;
  for (int i = 0; i < tile.count; i += lanes) {
    const Vector<T> raw = tile.read(tile.delta, i) + channel.delta_bias;
    store(steps + i, Softplus ? exp<true>(negative_magnitude<T>(raw)) : raw);
  }
  if constexpr (Softplus) {
    for (int i = 0; i < tile.count; i += lanes) {
      const Vector<T> raw = tile.read(tile.delta, i) + channel.delta_bias, e = load(steps + i);
      if constexpr (Slopes) store(slopes + i, sigmoid_of<T>(raw, e));
      store(steps + i, softplus_of<T>(raw, e));
    }
  }
  const int last = (tile.count - 1) / lanes * lanes;
  store(steps + last, tile.end(last, load(steps + last)));
}

// Computes exp(step * A), and 1 beyond the end, where 0 * A would be NaN for an infinite A.
template <typename T>
MMSPARX_INLINE void decays_of(const Tile<T>& tile, const T* steps, T A, T* decays) {
  constexpr int lanes = kLanes<T>;
  for (int i = 0; i < tile.count; i += lanes) store(decays + i, exp(load(steps + i) * A));
  const int last = (tile.count - 1) / lanes * lanes;
  store(decays + last, tile.end(last, load(decays + last), 1));
}

// Scans a tile. h (states) is the state before the tile and, on return, the state after it. `states` receives the state
// after every chunk, `stride` elements per chunk. `work` holds kForwardArrays arrays of kTile. Several states add up
// their outputs in `out`; all published networks have one (OneState).
constexpr int kForwardArrays = 3;

template <typename T, bool Softplus, bool OneState>
MMSPARX_INLINE void forward_tile(const Tile<T>& tile, const Channel<T>& channel, int64_t state_size, T* h,
                                 T* states, int64_t stride, T* out, T* work) {
  using V = Vector<T>;
  constexpr int lanes = kLanes<T>;
  constexpr auto all = Range<lanes>{};
  T* const steps = work;
  T* const decays = steps + kTile;
  T* const drives = decays + kTile;
  steps_of<T, Softplus, false>(tile, channel, steps, nullptr);
  if constexpr (!OneState) {
    for (int i = 0; i < tile.count; i += lanes) {
      const V u = tile.read(tile.u, i);
      store(drives + i, load(steps + i) * u);
      tile.write(out, i, channel.has_D ? u * channel.D : V{});
    }
  }
  for (int64_t n = 0; n < (OneState ? 1 : state_size); n++) {
    const T* const B = tile.B + n * tile.B_stride;
    const T* const C = tile.C + n * tile.C_stride;
    decays_of(tile, steps, channel.A[n], decays);
    V carry = broadcast(h[n]);
    for (int start = 0, chunk = 0; start < tile.count; start += kChunk, chunk++) {
      const int end = start + int(kChunk) < tile.count ? start + int(kChunk) : tile.count;
      for (int i = start; i < end; i += lanes) {
        V drive, y;
        if constexpr (OneState) {
          const V u = tile.read(tile.u, i);
          drive = load(steps + i) * u;
          y = channel.has_D ? u * channel.D : V{};
        } else {
          drive = load(drives + i);
          y = tile.read(out, i);
        }
        const V state = scan_up<T>(load(decays + i), drive * tile.read(B, i), carry);
        carry = broadcast_lane<lanes - 1, T>(state, all);
        tile.write(out, i, y + state * tile.read(C, i));
      }
      states[chunk * stride + n] = carry[0];
    }
    h[n] = carry[0];
  }
}

// Sums over the positions of a row of the gradients of A (per state), D and delta_bias.
struct ChannelSums {
  double* dA;
  double* dD;
  double* ddelta_bias;
};

// Differentiates a tile. h (states) is the state before the tile. dh (states) is the gradient that the last position's
// state receives from later positions and, on return, the gradient that leaves the tile for earlier positions.
// Gradients are added to dB and dC, `stride` elements per state.
//
// A single state writes du and ddelta in the pass over it; several add up the gradients of step * u and of the step in
// `work`, which holds kBackwardArrays arrays of kTile + 2 * kPadding.
constexpr int kBackwardArrays = 6;

template <typename T, bool Softplus, bool OneState>
MMSPARX_INLINE void backward_tile(const Tile<T>& tile, const T* grad, const Channel<T>& channel, int64_t state_size,
                                  const T* h, T* dh, T* dB, T* dC, int64_t stride, T* du, T* ddelta,
                                  const ChannelSums& sums, T* work) {
  using V = Vector<T>;
  constexpr int lanes = kLanes<T>;
  constexpr auto all = Range<lanes>{};
  constexpr int size = kTile + 2 * kPadding;
  T* const steps = work + kPadding;
  T* const slopes = steps + size;  // the softplus' derivative
  T* const decays = slopes + size;
  T* const hs = decays + size;
  T* const ddrives = hs + size;  // gradient of step * u
  T* const dsteps = ddrives + size;  // gradient of the step through the decay
  const int padded = int(ceil_div(tile.count, lanes)) * lanes;

  steps_of<T, Softplus, Softplus>(tile, channel, steps, slopes);
  V sum_D = {}, sum_bias = {};
  auto finish = [&](int i, V step, V u, V g, V ddrive, V dstep) {
    V d = ddrive * step;
    if (channel.has_D) {
      d += g * channel.D;
      sum_D += g * u;
    }
    tile.write(du, i, d);
    dstep += ddrive * u;
    if constexpr (Softplus) dstep *= load(slopes + i);
    tile.write(ddelta, i, dstep);
    sum_bias += dstep;
  };

  if constexpr (!OneState) {
    for (int i = 0; i < padded; i += lanes) {
      store(ddrives + i, V{});
      store(dsteps + i, V{});
    }
  }
  for (int64_t n = 0; n < (OneState ? 1 : state_size); n++) {
    const T A = channel.A[n];
    const T* const B = tile.B + n * tile.B_stride;
    const T* const C = tile.C + n * tile.C_stride;
    // The states are recomputed from the saved one.
    decays_of(tile, steps, A, decays);
    V carry = broadcast(h[n]);
    store(hs - lanes, carry);
    for (int i = 0; i < padded; i += lanes) {
      const V state = scan_up<T>(load(decays + i), load(steps + i) * tile.read(tile.u, i) * tile.read(B, i), carry);
      carry = broadcast_lane<lanes - 1, T>(state, all);
      store(hs + i, state);
    }
    // dh_t = C_t grad_t + decay_{t+1} dh_{t+1}; the given dh already includes its decay.
    store(decays + padded, broadcast<T>(1));
    carry = broadcast(dh[n]);
    V sum_A = {};
    for (int i = padded - lanes; i >= 0; i -= lanes) {
      const V g = tile.read(grad, i), u = tile.read(tile.u, i), step = load(steps + i), decay = load(decays + i);
      const V state = scan_down<T>(load(decays + i + 1), tile.read(C, i) * g, carry);
      carry = broadcast_lane<0, T>(state, all);
      // This is decay * h[t-1], since h - drive would cancel. Beyond the end it would be 0 * NaN if the last state is
      // NaN.
      const V dlog = tile.end(i, state * (load(hs + i - 1) * decay));
      const V ddrive = state * tile.read(B, i);
      sum_A += dlog * step;
      tile.write(dB + n * stride, i, tile.read(dB + n * stride, i) + state * (step * u));
      tile.write(dC + n * stride, i, tile.read(dC + n * stride, i) + g * load(hs + i));
      if constexpr (OneState) {
        finish(i, step, u, g, ddrive, dlog * A);
      } else {
        store(ddrives + i, load(ddrives + i) + ddrive);
        store(dsteps + i, load(dsteps + i) + dlog * A);
      }
    }
    dh[n] = carry[0] * decays[0];
    sums.dA[n] += sum<T>(sum_A);
  }
  if constexpr (!OneState) {
    for (int i = 0; i < padded; i += lanes) {
      finish(i, load(steps + i), tile.read(tile.u, i), tile.read(grad, i), load(ddrives + i), load(dsteps + i));
    }
  }
  *sums.dD += sum<T>(sum_D);
  *sums.ddelta_bias += sum<T>(sum_bias);
}

}  // namespace
}  // namespace mmsparx
