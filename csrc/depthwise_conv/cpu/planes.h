// Forward and backward passes over whole planes.

#pragma once

#include "activations.h"
#include "rows.h"

namespace mmsparx::depthwise {
namespace {

template <typename In>
const In* plane_of(const Planes& planes, int64_t channels, int64_t unit) {
  return static_cast<const In*>(planes.data) + unit / channels * planes.batch_stride +
         unit % channels * planes.channel_stride;
}

template <typename T>
T bias_of(const Inputs& in, int64_t channel) {
  return in.bias ? static_cast<const T*>(in.bias)[channel] : T(0);
}

// Returns the size of the scratch memory in numbers of type T: the frames of x and of the gradient, and a band of
// results, laid out as a frame or as contiguous rows.
template <typename T>
int64_t scratch_numbers(const Inputs& in) {
  const int64_t halo = in.side / 2, band = band_rows<T>(in.height, in.width);
  return frame_numbers<T>(band + 4 * halo, in.width) + 2 * frame_numbers<T>(band + 2 * halo, in.width);
}

// Convolves `rows` rows, the first of whose windows begins at `windows` in a frame; with `residual`, the frame's
// numbers are added. The results go to write(y, x, results) as in `convolve`, some rows twice.
template <int Side, typename T, typename Write>
MMSPARX_INLINE void convolve_rows(const T* windows, int64_t stride, const Vector<T>* weight, T bias, bool residual,
                                  int64_t rows, int64_t width, const Write& write) {
  constexpr int halo = Side / 2;
  in_blocks(rows, [&](int64_t y, auto count) {
    const T* const from = windows + y * stride;
    const T* const centre = from + halo * stride + halo;
    convolve<Side, count.value>(from, stride, weight, bias, width, [&](int row, int64_t x, Vector<T> v) {
      write(y + row, x, residual ? v + load(centre + row * stride + x) : v);
    });
  });
}

// Convolves likewise, applies `finish` to the results in T, and writes them to `to`, row after row.
template <int Side, typename T, typename Out, typename Finish>
MMSPARX_INLINE void convolve_to(Out* to, const T* windows, int64_t stride, const Vector<T>* weight, T bias,
                                bool residual, int64_t rows, int64_t width, T* buffer, const Finish& finish) {
  T* const results = destination<T>(to, buffer);
  convolve_rows<Side>(windows, stride, weight, bias, residual, rows, width, [&](int64_t y, int64_t x, Vector<T> v) {
    store_row(results + y * width, x, width, v);
  });
  finish(results, rows * width);
  unstage(results, int(rows * width), to);
}

template <typename In, int Side, Activation A>
void forward_planes(const Forward& f, int64_t begin, int64_t end, void* scratch) {
  using T = typename StateOf<In>::type;
  constexpr int halo = Side / 2;
  const Inputs& in = f.inputs;
  const int64_t stride = frame_stride<T>(in.width), band = band_rows<T>(in.height, in.width);
  T* const frame = static_cast<T*>(scratch);
  T* const buffer = frame + frame_numbers<T>(band + 2 * halo, in.width);
  clear_frame(frame, band + 2 * halo, in.width);
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t channel = unit % in.channels;
    const In* const x = plane_of<In>(in.x, in.channels, unit);
    In* const out = static_cast<In*>(f.out) + unit * in.height * in.width;
    Vector<T> weight[Side * Side];
    broadcast_weight<Side>(static_cast<const T*>(in.weight) + channel * Side * Side, false, weight);
    const T bias = bias_of<T>(in, channel);
    for (int64_t first = 0; first < in.height; first += band) {
      const int64_t rows = first + band < in.height ? band : in.height - first;
      fill_frame(x, in.height, in.width, first - halo, rows + 2 * halo, frame);
      convolve_to<Side>(out + first * in.width, frame + kMargin<T> - halo, stride, weight, bias, in.residual, rows,
                        in.width, buffer, activate_all<A, T>);
    }
  }
}

// Number of the window's columns for which one pass sums the weights' gradients, so that the sums fit into registers.
template <int Side>
constexpr int kColumns = MMSPARX_VECTOR_BYTES == 64 || Side == 3 ? Side : 1;

// Adds products to `sums` (Side, Columns), the sums of the window's columns from the one that `x` points to.
template <int Side, int Columns, int Rows, typename T>
MMSPARX_INLINE void add_products(const T* x, const T* gradient, int64_t stride, int64_t width, Vector<T>* sums) {
  for (int64_t at = 0; at < width; at += kLanes<T>) {
    Vector<T> g[Rows];
#pragma GCC unroll 8
    for (int row = 0; row < Rows; row++) g[row] = load(gradient + row * stride + at);
#pragma GCC unroll 16
    for (int from = 0; from < Rows + Side - 1; from++) {
#pragma GCC unroll 8
      for (int k = 0; k < Columns; k++) {
        const Vector<T> v = load(x + from * stride + at + k);
#pragma GCC unroll 8
        for (int row = 0; row < Rows; row++) {
          if (from >= row && from - row < Side) sums[(from - row) * Columns + k] += v * g[row];
        }
      }
    }
  }
}

// Adds the gradient of a plane's weight to `to`. `x` points to the first window in the frame of x, and `gradient` to
// the first number in that of the gradient.
template <int Side, typename T>
MMSPARX_INLINE void add_weight_gradient(const T* x, const T* gradient, int64_t stride, int64_t rows, int64_t width,
                                        double* to) {
  constexpr int columns = kColumns<Side>;
  for (int first = 0; first < Side; first += columns) {
    Vector<T> sums[Side * columns] = {};
    int64_t y = 0;
    for (; y + kAbreast <= rows; y += kAbreast) {
      add_products<Side, columns, kAbreast>(x + y * stride + first, gradient + y * stride, stride, width, sums);
    }
    for (; y < rows; y++) {
      add_products<Side, columns, 1>(x + y * stride + first, gradient + y * stride, stride, width, sums);
    }
    for (int row = 0; row < Side; row++) {
      for (int k = 0; k < columns; k++) to[row * Side + first + k] += sum<T>(sums[row * columns + k]);
    }
  }
}

template <typename In, int Side, Activation A>
void backward_planes(const Backward& b, int64_t begin, int64_t end, void* scratch) {
  using T = typename StateOf<In>::type;
  constexpr int halo = Side / 2, size = Side * Side;
  const Inputs& in = b.inputs;
  const int64_t stride = frame_stride<T>(in.width), band = band_rows<T>(in.height, in.width);
  T* const frame = static_cast<T*>(scratch);
  T* const gradient = frame + frame_numbers<T>(band + 4 * halo, in.width);
  T* const buffer = gradient + frame_numbers<T>(band + 2 * halo, in.width);
  clear_frame(frame, band + 4 * halo, in.width);
  clear_frame(gradient, band + 2 * halo, in.width);
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t channel = unit % in.channels;
    const In* const x = plane_of<In>(in.x, in.channels, unit);
    const In* const grad = plane_of<In>(b.grad, in.channels, unit);
    In* const dx = static_cast<In*>(b.dx) + unit * in.height * in.width;
    double* const dweight = b.dweight_partial + unit * size;
    double* const dbias = b.dbias_partial + unit;
    for (int i = 0; i < size; i++) dweight[i] = 0;
    *dbias = 0;
    const T* const own = static_cast<const T*>(in.weight) + channel * size;
    Vector<T> weight[size], flipped[size];
    broadcast_weight<Side>(own, false, weight);
    broadcast_weight<Side>(own, true, flipped);
    const T bias = bias_of<T>(in, channel);
    for (int64_t first = 0; first < in.height; first += band) {
      const int64_t rows = first + band < in.height ? band : in.height - first;
      fill_frame(x, in.height, in.width, first - 2 * halo, rows + 4 * halo, frame);
      // This is the gradient before the activation, with `halo` rows around it, whose x is in the frame.
      fill_frame(grad, in.height, in.width, first - halo, rows + 2 * halo, gradient);
      if constexpr (A != Activation::kNone) {
        const int64_t from = first < halo ? halo - first : 0;
        const int64_t behind = in.height - first + halo, to = behind < rows + 2 * halo ? behind : rows + 2 * halo;
        const T* const windows = frame + from * stride + kMargin<T> - halo;
        convolve_rows<Side>(windows, stride, weight, bias, in.residual, to - from, in.width,
                            [&](int64_t y, int64_t at, Vector<T> z) { store(buffer + (from + y) * stride + at, z); });
        for (int64_t y = from; y < to; y++) {
          const T* const z = buffer + y * stride;
          T* const g = gradient + y * stride + kMargin<T>;
          int64_t at = 0;
          for (; at + kLanes<T> <= in.width; at += kLanes<T>) {
            store(g + at, load(g + at) * derivative<A, T>(load(z + at)));
          }
          // The gradient stays 0 beyond the end of a row, whatever z is there.
          if (at < in.width) {
            store(g + at, first_lanes<T>(load(g + at) * derivative<A, T>(load(z + at)), in.width - at, 0));
          }
        }
      }
      convolve_to<Side>(dx + first * in.width, gradient + kMargin<T> - halo, stride, flipped, T(0), in.residual, rows,
                        in.width, buffer, [](T*, int64_t) {});
      const T* const inner = gradient + halo * stride + kMargin<T>;
      add_weight_gradient<Side>(frame + halo * stride + kMargin<T> - halo, inner, stride, rows, in.width, dweight);
      Vector<T> total = {};
      for (int64_t y = 0; y < rows; y++) {
        for (int64_t at = 0; at < in.width; at += kLanes<T>) total += load(inner + y * stride + at);
      }
      *dbias += sum<T>(total);
    }
  }
}

}  // namespace
}  // namespace mmsparx::depthwise
