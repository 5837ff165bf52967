// The cross scan over tiles. It processes a few channels at a time, so that the orders of their pixels, their steps and
// the sum over the directions stay in a thread's caches.

#pragma once

#include "blocks.h"

namespace mmsparx {
namespace {

// Transposes `from` (height, width) to `to` (width, height).
template <typename T>
MMSPARX_INLINE void transpose(const T* from, int64_t height, int64_t width, T* to) {
  constexpr int64_t kSide = 8;  // side of a block: whole cache lines on both sides
  for (int64_t row = 0; row < height; row += kSide) {
    const int64_t rows = height - row < kSide ? height - row : kSide;
    if (rows == kSide) {
      for (int64_t column = 0; column < width; column++) {
        for (int64_t i = 0; i < kSide; i++) to[column * height + row + i] = from[(row + i) * width + column];
      }
    } else {
      for (int64_t column = 0; column < width; column++) {
        for (int64_t i = 0; i < rows; i++) to[column * height + row + i] = from[(row + i) * width + column];
      }
    }
  }
}

template <typename T>
MMSPARX_INLINE void reverse(const T* from, int64_t count, T* to) {
  for (int64_t i = 0; i < count; i++) to[i] = from[count - 1 - i];
}

template <typename T>
MMSPARX_INLINE void add_reversed(const T* from, int64_t count, T* to) {
  for (int64_t i = 0; i < count; i++) to[i] += from[count - 1 - i];
}

// One channel of a map, which can be read along any direction.
template <typename T>
class Orders {
 public:
  Orders() = default;

  // `memory` holds two maps.
  template <typename In>
  MMSPARX_INLINE Orders(const In* map, int64_t height, int64_t width, T* memory)
      : length_(height * width), rows_(map_in_state_type(map, memory)), columns_(memory + length_) {
    transpose(rows_, height, width, memory + length_);
  }

  // Returns positions [start, start + count) of a direction, in place or copied to `buffer`.
  MMSPARX_INLINE const T* read(int direction, int64_t start, int count, T* buffer) const {
    const T* const order = direction % 2 ? columns_ : rows_;
    if (direction < 2) return order + start;
    reverse(order + length_ - start - count, count, buffer);
    return buffer;
  }

 private:
  template <typename In>
  MMSPARX_INLINE const T* map_in_state_type(const In* map, T* memory) const {
    if constexpr (sizeof(In) == sizeof(T)) {
      return map;
    } else {
      for (int64_t i = 0; i < length_; i++) memory[i] = widen(map[i]);
      return memory;
    }
  }

  int64_t length_;
  const T* rows_;
  const T* columns_;
};

// One channel of a map that sums the outputs of the directions; 0 and 1 are written before 2 and 3.
template <typename T>
class Merge {
 public:
  Merge() = default;

  // `memory` holds two maps.
  MMSPARX_INLINE Merge(int64_t height, int64_t width, T* memory)
      : height_(height), width_(width), length_(height * width), rows_(memory), columns_(memory + length_) {}

  // Returns the memory for positions [start, ...) of a direction: in place, or `buffer`.
  MMSPARX_INLINE T* destination(int direction, int64_t start, T* buffer) const {
    return direction < 2 ? order(direction) + start : buffer;
  }
  // Adds positions that were written to `destination`, which is required after each write.
  MMSPARX_INLINE void add(int direction, int64_t start, int count, const T* written) const {
    if (direction >= 2) add_reversed(written, count, order(direction) + length_ - start - count);
  }
  // Writes the sum in the map's order. `memory` holds a map, and may be that of an Orders that is no longer read.
  template <typename Out>
  MMSPARX_INLINE void finish(T* memory, Out* to) const {
    transpose(columns_, width_, height_, memory);
    for (int64_t i = 0; i < length_; i++) narrow(rows_[i] + memory[i], to[i]);
  }

 private:
  MMSPARX_INLINE T* order(int direction) const { return direction % 2 ? columns_ : rows_; }

  int64_t height_, width_, length_;
  T* rows_;
  T* columns_;
};

template <typename T>
MMSPARX_INLINE const T* matrices_at(const Matrices& matrices, int64_t batch, int direction, int64_t start) {
  return static_cast<const T*>(matrices.data) + batch * matrices.batch_stride + direction * matrices.group_stride + start;
}

// Computes the steps of `Channels` channels before bias and softplus: delta (channels, kTile) = weights (channels,
// rank) times step (rank, count), whose rows are `stride` apart.
template <typename T, int Channels>
MMSPARX_INLINE void project(const Tile<T>& tile, const T* weights, int64_t rank, const T* step, int64_t stride,
                            T* delta) {
  constexpr int lanes = kLanes<T>, kVectors = 2;
  int i = 0;
  for (; i + kVectors * lanes <= tile.count; i += kVectors * lanes) {
    Vector<T> total[Channels][kVectors] = {};
    for (int64_t r = 0; r < rank; r++) {
      for (int j = 0; j < kVectors; j++) {
        const Vector<T> v = load(step + r * stride + i + j * lanes);
        for (int c = 0; c < Channels; c++) total[c][j] += v * weights[c * rank + r];
      }
    }
    for (int c = 0; c < Channels; c++) {
      for (int j = 0; j < kVectors; j++) store(delta + c * kTile + i + j * lanes, total[c][j]);
    }
  }
  for (; i < tile.count; i += lanes) {
    Vector<T> total[Channels] = {};
    for (int64_t r = 0; r < rank; r++) {
      const Vector<T> v = tile.read(step + r * stride, i);
      for (int c = 0; c < Channels; c++) total[c] += v * weights[c * rank + r];
    }
    for (int c = 0; c < Channels; c++) tile.write(delta + c * kTile, i, total[c]);
  }
}

// Adds the gradients of `project`, given that of delta, to dstep, whose rows are `dstep_stride` apart, and to dweights
// (channels, rank).
template <typename T, int Channels>
MMSPARX_INLINE void project_backward(const Tile<T>& tile, const T* weights, int64_t rank, const T* step,
                                     int64_t stride, const T* ddelta, T* dstep, int64_t dstep_stride,
                                     double* dweights) {
  for (int64_t r = 0; r < rank; r++) {
    Vector<T> total[Channels] = {};
    for (int i = 0; i < tile.count; i += kLanes<T>) {
      const Vector<T> v = tile.read(step + r * stride, i);
      Vector<T> d = tile.read(dstep + r * dstep_stride, i);
      for (int c = 0; c < Channels; c++) {
        const Vector<T> dd = tile.read(ddelta + c * kTile, i);
        total[c] += dd * v;
        d += dd * weights[c * rank + r];
      }
      tile.write(dstep + r * dstep_stride, i, d);
    }
    for (int c = 0; c < Channels; c++) dweights[c * rank + r] += sum<T>(total[c]);
  }
}

template <typename T>
struct CrossForwardScratch {
  T *h, *u, *delta, *out, *work, *orders, *merge;

  CrossForwardScratch(const Inputs& in, Scratch& scratch)
      : h(scratch.take<T>(kAbreast * in.states)),
        u(scratch.take<T>(kTile)),
        delta(scratch.take<T>(kAbreast * kTile)),
        out(scratch.take<T>(kTile)),
        work(scratch.take<T>(kForwardArrays * kTile)),
        orders(scratch.take<T>(2 * kAbreast * in.length)),
        merge(scratch.take<T>(2 * kAbreast * in.length)) {}
};

template <typename T>
struct CrossBackwardScratch {
  T *dh, *u, *delta, *grad, *du, *ddelta, *work, *orders, *grad_orders, *merge;

  CrossBackwardScratch(const Inputs& in, Scratch& scratch)
      : dh(scratch.take<T>(kAbreast * in.states)),
        u(scratch.take<T>(kTile)),
        delta(scratch.take<T>(kAbreast * kTile)),
        grad(scratch.take<T>(kTile)),
        du(scratch.take<T>(kTile)),
        ddelta(scratch.take<T>(kAbreast * kTile)),
        work(scratch.take<T>(kBackwardArrays * (kTile + 2 * kPadding))),
        orders(scratch.take<T>(2 * kAbreast * in.length)),
        grad_orders(scratch.take<T>(2 * kAbreast * in.length)),
        merge(scratch.take<T>(2 * kAbreast * in.length)) {}
};

int64_t cross_scratch_bytes(const Inputs& in) {
  Scratch forward(nullptr), backward(nullptr);
  CrossForwardScratch<double>(in, forward);
  CrossBackwardScratch<double>(in, backward);
  return forward.used() > backward.used() ? forward.used() : backward.used();
}

// Returns the part of a tile that all channels of a direction share: all but u and delta.
template <typename T>
MMSPARX_INLINE Tile<T> tile_at(const Inputs& in, int64_t batch, int direction, int64_t start) {
  Tile<T> tile;
  tile.count = int(in.length - start < kTile ? in.length - start : kTile);
  tile.B = matrices_at<T>(in.B, batch, direction, start);
  tile.C = matrices_at<T>(in.C, batch, direction, start);
  tile.B_stride = in.B.state_stride;
  tile.C_stride = in.C.state_stride;
  return tile;
}

// Scans channels [channel, channel + Channels) of a sample's map.
template <typename In, bool Softplus, bool OneState, int Channels>
MMSPARX_INLINE void cross_forward_channels(const CrossForward& f, const CrossForwardScratch<State<In>>& buffers,
                                           int64_t batch, int64_t channel) {
  using T = State<In>;
  const Inputs& in = f.inputs;
  const CrossInputs& cross = f.cross;
  const int64_t channels = in.group_dim(), length = in.length, saved = state_count(length);
  Orders<T> u[Channels];
  Merge<T> merge[Channels];
  for (int c = 0; c < Channels; c++) {
    u[c] = Orders<T>(row_of<In>(in.u, batch, channel + c), cross.height, cross.width, buffers.orders + 2 * c * length);
    merge[c] = Merge<T>(cross.height, cross.width, buffers.merge + 2 * c * length);
  }
  for (int direction = 0; direction < kDirections; direction++) {
    const int64_t row = direction * channels + channel;
    const T* const weights = static_cast<const T*>(cross.weight) + row * cross.rank;
    T* const states = static_cast<T*>(f.states) + (batch * in.dim + row) * saved * in.states;
    for (int64_t i = 0; i < Channels * in.states; i++) buffers.h[i] = 0;
    for (int c = 0; c < Channels; c++) {
      for (int64_t n = 0; n < in.states; n++) states[c * saved * in.states + n] = 0;
    }
    for (int64_t start = 0; start < length; start += kTile) {
      Tile<T> tile = tile_at<T>(in, batch, direction, start);
      project<T, Channels>(tile, weights, cross.rank, matrices_at<T>(cross.step, batch, direction, start),
                           cross.step.state_stride, buffers.delta);
      for (int c = 0; c < Channels; c++) {
        tile.u = u[c].read(direction, start, tile.count, buffers.u);
        tile.delta = buffers.delta + c * kTile;
        T* const out = merge[c].destination(direction, start, buffers.out);
        forward_tile<T, Softplus, OneState>(tile, channel_of<T>(in, row + c), in.states, buffers.h + c * in.states,
                                            states + (c * saved + start / kChunk + 1) * in.states, in.states, out,
                                            buffers.work);
        merge[c].add(direction, start, tile.count, out);
      }
    }
  }
  for (int c = 0; c < Channels; c++) {
    merge[c].finish(buffers.orders, static_cast<In*>(f.out) + (batch * channels + channel + c) * length);
  }
}

// A unit of work is kAbreast channels of a sample's map, or the remaining ones.
template <typename In, bool Softplus, bool OneState>
void cross_forward_units(const CrossForward& f, int64_t begin, int64_t end, void* memory) {
  Scratch scratch(memory);
  const CrossForwardScratch<State<In>> buffers(f.inputs, scratch);
  const int64_t channels = f.inputs.group_dim(), blocks = cross_forward_blocks(f.inputs);
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t batch = unit / blocks, first = unit % blocks * kAbreast;
    if (first + kAbreast <= channels) {
      cross_forward_channels<In, Softplus, OneState, kAbreast>(f, buffers, batch, first);
    } else {
      for (int64_t channel = first; channel < channels; channel++) {
        cross_forward_channels<In, Softplus, OneState, 1>(f, buffers, batch, channel);
      }
    }
  }
}

// The partial sums of dstep, dB and dC of a unit of the backward.
template <typename T>
struct CrossPartials {
  T *dstep[kDirections], *dB[kDirections], *dC[kDirections];

  CrossPartials(const CrossBackward& b, int64_t batch, int64_t number) {
    const Inputs& in = b.inputs;
    for (int direction = 0; direction < kDirections; direction++) {
      const int64_t place = ((batch * kDirections + direction) * b.blocks + number) * in.length;
      dstep[direction] = cleared(b.dstep_partial, place, b.cross.rank, in.length);
      dB[direction] = cleared(b.dB_partial, place, in.states, in.length);
      dC[direction] = cleared(b.dC_partial, place, in.states, in.length);
    }
  }

 private:
  static T* cleared(void* all, int64_t place, int64_t rows, int64_t length) {
    T* const mine = static_cast<T*>(all) + place * rows;
    for (int64_t i = 0; i < rows * length; i++) mine[i] = 0;
    return mine;
  }
};

template <typename In, bool Softplus, bool OneState, int Channels>
MMSPARX_INLINE void cross_backward_channels(const CrossBackward& b, const CrossBackwardScratch<State<In>>& buffers,
                                            const CrossPartials<State<In>>& partials, int64_t batch, int64_t channel) {
  using T = State<In>;
  const Inputs& in = b.inputs;
  const CrossInputs& cross = b.cross;
  const int64_t channels = in.group_dim(), length = in.length, saved = state_count(length);
  Orders<T> u[Channels], grad[Channels];
  Merge<T> merge[Channels];
  for (int c = 0; c < Channels; c++) {
    const int64_t place = 2 * c * length;
    u[c] = Orders<T>(row_of<In>(in.u, batch, channel + c), cross.height, cross.width, buffers.orders + place);
    grad[c] = Orders<T>(row_of<In>(b.grad, batch, channel + c), cross.height, cross.width, buffers.grad_orders + place);
    merge[c] = Merge<T>(cross.height, cross.width, buffers.merge + place);
  }
  for (int direction = 0; direction < kDirections; direction++) {
    const int64_t row = direction * channels + channel, place = batch * in.dim + row;
    const T* const weights = static_cast<const T*>(cross.weight) + row * cross.rank;
    const T* const states = static_cast<const T*>(b.states) + place * saved * in.states;
    double* const dweights = b.dweight_partial + place * cross.rank;
    for (int64_t i = 0; i < Channels * cross.rank; i++) dweights[i] = 0;
    for (int64_t i = 0; i < Channels * in.states; i++) buffers.dh[i] = b.dA_partial[place * in.states + i] = 0;
    for (int c = 0; c < Channels; c++) b.dD_partial[place + c] = b.dbias_partial[place + c] = 0;
    for (int64_t start = (length - 1) / kTile * kTile; start >= 0; start -= kTile) {
      Tile<T> tile = tile_at<T>(in, batch, direction, start);
      const T* const step = matrices_at<T>(cross.step, batch, direction, start);
      project<T, Channels>(tile, weights, cross.rank, step, cross.step.state_stride, buffers.delta);
      for (int c = 0; c < Channels; c++) {
        tile.u = u[c].read(direction, start, tile.count, buffers.u);
        tile.delta = buffers.delta + c * kTile;
        T* const du = merge[c].destination(direction, start, buffers.du);
        const ChannelSums sums = {b.dA_partial + (place + c) * in.states, b.dD_partial + place + c,
                                  b.dbias_partial + place + c};
        backward_tile<T, Softplus, OneState>(
            tile, grad[c].read(direction, start, tile.count, buffers.grad), channel_of<T>(in, row + c), in.states,
            states + (c * saved + start / kChunk) * in.states, buffers.dh + c * in.states,
            partials.dB[direction] + start, partials.dC[direction] + start, length, du, buffers.ddelta + c * kTile,
            sums, buffers.work);
        merge[c].add(direction, start, tile.count, du);
      }
      project_backward<T, Channels>(tile, weights, cross.rank, step, cross.step.state_stride, buffers.ddelta,
                                    partials.dstep[direction] + start, length, dweights);
    }
  }
  for (int c = 0; c < Channels; c++) {
    merge[c].finish(buffers.orders, static_cast<In*>(b.du) + (batch * channels + channel + c) * length);
  }
}

// A unit of work is kCrossRows channels of a sample's map, or the remaining ones.
template <typename In, bool Softplus, bool OneState>
void cross_backward_units(const CrossBackward& b, int64_t begin, int64_t end, void* memory) {
  const Inputs& in = b.inputs;
  const int64_t channels = in.group_dim();
  Scratch scratch(memory);
  const CrossBackwardScratch<State<In>> buffers(in, scratch);
  for (int64_t unit = begin; unit < end; unit++) {
    const int64_t batch = unit / b.blocks, number = unit % b.blocks;
    const CrossPartials<State<In>> partials(b, batch, number);
    int64_t channel = number * kCrossRows;
    const int64_t last = channel + kCrossRows < channels ? channel + kCrossRows : channels;
    for (; channel + kAbreast <= last; channel += kAbreast) {
      cross_backward_channels<In, Softplus, OneState, kAbreast>(b, buffers, partials, batch, channel);
    }
    for (; channel < last; channel++) {
      cross_backward_channels<In, Softplus, OneState, 1>(b, buffers, partials, batch, channel);
    }
  }
}

template <typename T>
void cross_add_partials(const CrossBackward& b, int64_t begin, int64_t end) {
  const Inputs& in = b.inputs;
  for (int64_t unit = begin; unit < end; unit++) {
    auto add = [&](const void* partial, int64_t rows, void* out) {
      const int64_t size = rows * in.length;
      add_blocks<T>(static_cast<const T*>(partial) + unit * b.blocks * size, b.blocks, size,
                    static_cast<T*>(out) + unit * size);
    };
    add(b.dstep_partial, b.cross.rank, b.dstep);
    add(b.dB_partial, in.states, b.dB);
    add(b.dC_partial, in.states, b.dC);
  }
}

}  // namespace
}  // namespace mmsparx
