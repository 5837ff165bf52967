// Rows of one plane, from a frame: a copy with zeros around it, in the type of the arithmetic.

#pragma once

#include "../../common/cpu/convert.h"
#include "kernels.h"

namespace mmsparx::depthwise {
namespace {

// Rows that are computed side by side, so that each reads what they share of the input once.
constexpr int kAbreast = 4;
// Numbers of a frame: few enough for the first-level caches, where a plane is no larger.
constexpr int64_t kFrame = 8192;

// A frame's rows: `side / 2` zeros, the plane's row, and zeros up to a vector behind the last one that is read.
template <typename T>
constexpr int64_t frame_stride(int64_t width) {
  constexpr int64_t lanes = kLanes<T>, margin = lanes > 4 ? lanes : 4;
  return ceil_div(width, lanes) * lanes + margin;
}

// Rows of the output that one frame is for.
template <typename T>
constexpr int64_t band_rows(int64_t height, int64_t width) {
  const int64_t fitting = kFrame / frame_stride<T>(width), rows = fitting < 8 ? 8 : fitting;
  return rows < height ? rows : height;
}

// Fills a frame with `rows` rows of a plane from row `first` on, zeros where there are none.
template <typename T, typename In>
MMSPARX_INLINE void fill_frame(const In* plane, int64_t height, int64_t width, int64_t first, int64_t rows, int margin,
                               T* frame) {
  const int64_t stride = frame_stride<T>(width);
  for (int64_t row = 0; row < rows; row++, frame += stride) {
    const int64_t y = first + row;
    if (y < 0 || y >= height) {
      for (int64_t i = 0; i < stride; i++) frame[i] = 0;
      continue;
    }
    const In* const from = plane + y * width;
    constexpr int lanes = kLanes<T>;
    if constexpr (sizeof(T) == sizeof(In) && lanes >= 4) {  // or the zeros at the end are more than a vector
      store(frame, Vector<T>{});
      store(frame + stride - lanes, Vector<T>{});
      int64_t x = 0;
      for (; x + lanes <= width; x += lanes) store(frame + margin + x, load(from + x));
      if (x < width) store(frame + margin + x, load_first(from + x, int(width - x)));
    } else {
      for (int i = 0; i < margin; i++) frame[i] = 0;
      for (int64_t i = 0; i < width; i++) frame[margin + i] = widen(from[i]);
      for (int64_t i = margin + width; i < stride; i++) frame[i] = 0;
    }
  }
}

// The convolution of `Rows` rows, the first of whose windows begins at `frame`. write(row, x, sums) takes a vector of
// results, those behind the end of a row among them.
template <int Side, int Rows, typename T, typename Write>
MMSPARX_INLINE void convolve(const T* frame, int64_t stride, const Vector<T>* weight, T bias, int64_t width,
                             const Write& write) {
  for (int64_t x = 0; x < width; x += kLanes<T>) {
    Vector<T> sums[Rows];
#pragma GCC unroll 8
    for (int row = 0; row < Rows; row++) sums[row] = broadcast(bias);
#pragma GCC unroll 16
    for (int from = 0; from < Rows + Side - 1; from++) {
#pragma GCC unroll 8
      for (int k = 0; k < Side; k++) {
        const Vector<T> v = load(frame + from * stride + x + k);
#pragma GCC unroll 8
        for (int row = 0; row < Rows; row++) {
          if (from >= row && from - row < Side) sums[row] += v * weight[(from - row) * Side + k];
        }
      }
    }
#pragma GCC unroll 8
    for (int row = 0; row < Rows; row++) write(row, x, sums[row]);
  }
}

// run(y, number of rows as a type): blocks of rows that cover `rows`, the last of them perhaps once more.
template <int N>
struct Count {
  static constexpr int value = N;
};

template <typename Run>
MMSPARX_INLINE void in_blocks(int64_t rows, const Run& run) {
  if (rows < kAbreast) {
    for (int64_t y = 0; y < rows; y++) run(y, Count<1>{});
    return;
  }
  for (int64_t y = 0; y < rows; y += kAbreast) run(y + kAbreast <= rows ? y : rows - kAbreast, Count<kAbreast>{});
}

template <int Side, typename T>
MMSPARX_INLINE void broadcast_weight(const T* from, bool flipped, Vector<T>* to) {
  constexpr int size = Side * Side;
  for (int i = 0; i < size; i++) to[i] = broadcast(from[flipped ? size - 1 - i : i]);
}

// A vector of a row of `width` numbers, of which x is the first.
template <typename T>
MMSPARX_INLINE void store_row(T* row, int64_t x, int64_t width, Vector<T> v) {
  x + kLanes<T> <= width ? store(row + x, v) : store_first(row + x, v, int(width - x));
}

}  // namespace
}  // namespace mmsparx::depthwise
