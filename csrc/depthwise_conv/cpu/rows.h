// Convolution of rows of one plane, from a frame: a copy with zeros around it, in the type of the arithmetic.

#pragma once

#include "../../common/cpu/convert.h"
#include "kernels.h"

namespace mmsparx::depthwise {
namespace {

// Number of rows that are computed together, so that the input that they share is read once.
constexpr int kAbreast = 4;
// Number of elements of a frame, which fits into the first-level cache unless eight rows of the plane are larger.
constexpr int64_t kFrame = 8192;

// Number of zeros before every row and after the last one: a vector, so that rows are aligned, and more than half a
// window.
template <typename T>
constexpr int kMargin = kLanes<T>;

// A row of a frame is the margin, the plane's row, and zeros up to a whole vector. Reads beyond it reach the margin of
// the next row.
template <typename T>
constexpr int64_t frame_stride(int64_t width) {
  constexpr int64_t lanes = kLanes<T>;
  return kMargin<T> + ceil_div(width, lanes) * lanes;
}

template <typename T>
constexpr int64_t frame_numbers(int64_t rows, int64_t width) {
  return rows * frame_stride<T>(width) + kMargin<T>;
}

// Clears a whole frame, since `fill_frame` does not write margins and ends of rows.
template <typename T>
MMSPARX_INLINE void clear_frame(T* frame, int64_t rows, int64_t width) {
  const int64_t numbers = frame_numbers<T>(rows, width);
  for (int64_t i = 0; i < numbers; i++) frame[i] = 0;
}

// Returns the number of output rows that are computed from one frame.
template <typename T>
constexpr int64_t band_rows(int64_t height, int64_t width) {
  const int64_t fitting = kFrame / frame_stride<T>(width), rows = fitting < 8 ? 8 : fitting;
  return rows < height ? rows : height;
}

// Fills a frame with `rows` rows of a plane from row `first` on, and with zeros for rows outside the plane.
template <typename T, typename In>
MMSPARX_INLINE void fill_frame(const In* plane, int64_t height, int64_t width, int64_t first, int64_t rows, T* frame) {
  constexpr int lanes = kLanes<T>;
  const int64_t stride = frame_stride<T>(width);
  T* to = frame + kMargin<T>;
  for (int64_t y = first; y < first + rows; y++, to += stride) {
    const In* const from = plane + y * width;
    if (y < 0 || y >= height) {
      for (int64_t x = 0; x < width; x += lanes) store(to + x, Vector<T>{});
    } else if constexpr (sizeof(T) == sizeof(In)) {
      int64_t x = 0;
      for (; x + lanes <= width; x += lanes) store(to + x, load(from + x));
      if (x < width) store(to + x, load_first(from + x, int(width - x)));
    } else {
      for (int64_t x = 0; x < width; x++) to[x] = widen(from[x]);
    }
  }
}

// Convolves `Rows` rows, the first of whose windows begins at `frame`. write(row, x, sums) takes a vector of results,
// including those beyond the end of a row.
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

// Calls run(y, number of rows as a type) on blocks that cover `rows` rows; the last block may overlap the one before.
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

// Stores a vector from position x of a row of `width` numbers on.
template <typename T>
MMSPARX_INLINE void store_row(T* row, int64_t x, int64_t width, Vector<T> v) {
  x + kLanes<T> <= width ? store(row + x, v) : store_first(row + x, v, int(width - x));
}

}  // namespace
}  // namespace mmsparx::depthwise
