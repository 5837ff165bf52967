// The kernels' passes over maps.

#pragma once

#include "../../common/cpu/convert.h"
#include "kernels.h"

namespace mmsparx::map_norm {
namespace {

// Readers of a whole vector, and of the first `count` numbers of one.
struct Whole {
  template <typename T>
  MMSPARX_INLINE Vector<T> operator()(const T* from) const {
    return load(from);
  }
};
struct First {
  int count;
  template <typename T>
  MMSPARX_INLINE Vector<T> operator()(const T* from) const {
    return load_first(from, count);
  }
};

// Sums get(i, read) over `count` numbers, where each call returns the vector that begins at i, in float or double.
// There are four partial sums, since each addition to a single one would wait for the previous addition.
template <typename T, typename Get>
MMSPARX_INLINE T total(int64_t count, const Get& get) {
  constexpr int64_t lanes = kLanes<T>;
  Vector<T> sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    for (int k = 0; k < 4; k++) sums[k] += get(i + k * lanes, Whole{});
  }
  for (; i + lanes <= count; i += lanes) sums[0] += get(i, Whole{});
  if (i < count) sums[1] += first_lanes<T>(get(i, First{int(count - i)}), count - i, 0);
  return sum<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Calls run(i, count) on parts of at most kPart numbers that cover `all` numbers.
template <typename Run>
MMSPARX_INLINE void in_parts(int64_t all, const Run& run) {
  for (int64_t i = 0; i < all; i += kPart) run(i, all - i < kPart ? all - i : kPart);
}

template <typename In>
void statistics_of(const Forward& f, int64_t begin, int64_t end, void* scratch) {
  using T = typename StateOf<In>::type;
  const Inputs& in = f.inputs;
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t first = unit % in.parts() * kPart, left = in.sample() - first, count = left < kPart ? left : kPart;
    const In* const from = static_cast<const In*>(in.x) + unit / in.parts() * in.sample() + first;
    const T* const x = stage(from, int(count), static_cast<T*>(scratch));
    const T mean = total<T>(count, [&](int64_t i, auto read) { return read(x + i); }) / T(count);
    f.part_means[unit] = mean;
    // The mean was rounded, so the sum of the differences from it corrects the statistics.
    const T rest = total<T>(count, [&](int64_t i, auto read) { return read(x + i) - mean; });
    const T squares = total<T>(count, [&](int64_t i, auto read) {
      const Vector<T> d = read(x + i) - mean;
      return d * d;
    });
    f.part_means[unit] += double(rest) / double(count);
    f.part_squares[unit] = double(squares) - double(rest) * double(rest) / double(count);
  }
}

// Writes make(i, read) for every vector of `count` numbers.
template <typename T, typename Make>
MMSPARX_INLINE void write(int64_t count, T* to, const Make& make) {
  constexpr int64_t lanes = kLanes<T>;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(to + i, make(i, Whole{}));
  if (i < count) store_first(to + i, make(i, First{int(count - i)}), int(count - i));
}

template <typename In>
void normalise_of(const Forward& f, int64_t begin, int64_t end, void* scratch) {
  using T = typename StateOf<In>::type;
  const Inputs& in = f.inputs;
  T* const memory = static_cast<T*>(scratch);
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t sample = unit / in.channels, channel = unit % in.channels;
    const T mean = static_cast<const T*>(f.mean)[sample];
    const T scale = static_cast<const T*>(in.weight)[channel] * static_cast<const T*>(f.rstd)[sample];
    const T bias = static_cast<const T*>(in.bias)[channel];
    const In* const from = static_cast<const In*>(in.x) + unit * in.positions;
    In* const out = static_cast<In*>(f.out) + unit * in.positions;
    in_parts(in.positions, [&](int64_t first, int64_t count) {
      const T* const x = stage(from + first, int(count), memory);
      T* const to = destination(out + first, memory + kPart);
      write(count, to, [&](int64_t i, auto read) { return (read(x + i) - mean) * scale + bias; });
      unstage(to, int(count), out + first);
    });
  }
}

template <typename In>
void sums_of(const Backward& b, int64_t begin, int64_t end, void* scratch) {
  using T = typename StateOf<In>::type;
  const Inputs& in = b.inputs;
  T* const memory = static_cast<T*>(scratch);
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t sample = unit / in.channels;
    const T mean = static_cast<const T*>(b.mean)[sample], rstd = static_cast<const T*>(b.rstd)[sample];
    const In* const from = static_cast<const In*>(in.x) + unit * in.positions;
    const In* const gradient = static_cast<const In*>(b.grad) + unit * in.positions;
    double products = 0, gradients = 0;
    in_parts(in.positions, [&](int64_t first, int64_t count) {
      const T* const x = stage(from + first, int(count), memory);
      const T* const g = stage(gradient + first, int(count), memory + kPart);
      products += total<T>(count, [&](int64_t i, auto read) { return read(g + i) * (read(x + i) - mean); });
      gradients += total<T>(count, [&](int64_t i, auto read) { return read(g + i); });
    });
    b.dweight_partial[unit] = products * rstd;
    b.dbias_partial[unit] = gradients;
  }
}

template <typename In>
void gradient_of(const Backward& b, int64_t begin, int64_t end, void* scratch) {
  using T = typename StateOf<In>::type;
  const Inputs& in = b.inputs;
  T* const memory = static_cast<T*>(scratch);
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t sample = unit / in.channels;
    const T mean = static_cast<const T*>(b.mean)[sample], rstd = static_cast<const T*>(b.rstd)[sample];
    const T scale = static_cast<const T*>(in.weight)[unit % in.channels] * rstd;
    const T shift = T(b.mean_gradient[sample]) * rstd, slope = T(b.mean_product[sample]) * rstd * rstd;
    const In* const from = static_cast<const In*>(in.x) + unit * in.positions;
    const In* const gradient = static_cast<const In*>(b.grad) + unit * in.positions;
    In* const dx = static_cast<In*>(b.dx) + unit * in.positions;
    in_parts(in.positions, [&](int64_t first, int64_t count) {
      const T* const x = stage(from + first, int(count), memory);
      const T* const g = stage(gradient + first, int(count), memory + kPart);
      T* const to = destination(dx + first, memory + 2 * kPart);
      write(count, to,
            [&](int64_t i, auto read) { return read(g + i) * scale - shift - (read(x + i) - mean) * slope; });
      unstage(to, int(count), dx + first);
    });
  }
}

}  // namespace
}  // namespace mmsparx::map_norm
