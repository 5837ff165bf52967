// Blocks of rows of one group, which are processed tile by tile along the positions.

#pragma once

#include "../../common/cpu/convert.h"
#include "tiles.h"

namespace mmsparx {
namespace {

template <typename In>
using State = typename StateOf<In>::type;

// Allocates arrays from the caller's memory, one after the other.
class Scratch {
 public:
  // Null memory only counts bytes.
  explicit Scratch(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <typename T>
  T* take(int64_t count) {
    T* const taken = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += ceil_div(count * int64_t(sizeof(T)), 64) * 64;
    return taken;
  }

  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

template <typename T>
struct ForwardScratch {
  T *B, *C, *h, *u, *delta, *out, *work;

  ForwardScratch(int64_t states, Scratch& scratch)
      : B(scratch.take<T>(states * kTile)),
        C(scratch.take<T>(states * kTile)),
        h(scratch.take<T>(states * kForwardRows)),
        u(scratch.take<T>(kTile)),
        delta(scratch.take<T>(kTile)),
        out(scratch.take<T>(kTile)),
        work(scratch.take<T>(kForwardArrays * kTile)) {}
};

template <typename T>
struct BackwardScratch {
  T *B, *C, *dB, *dC, *dh, *u, *delta, *grad, *du, *ddelta, *work;

  BackwardScratch(int64_t states, Scratch& scratch)
      : B(scratch.take<T>(states * kTile)),
        C(scratch.take<T>(states * kTile)),
        dB(scratch.take<T>(states * kTile)),
        dC(scratch.take<T>(states * kTile)),
        dh(scratch.take<T>(states * kBackwardRows)),
        u(scratch.take<T>(kTile)),
        delta(scratch.take<T>(kTile)),
        grad(scratch.take<T>(kTile)),
        du(scratch.take<T>(kTile)),
        ddelta(scratch.take<T>(kTile)),
        work(scratch.take<T>(kBackwardArrays * (kTile + 2 * kPadding))) {}
};

int64_t scratch_bytes(const Inputs& in) {
  Scratch forward(nullptr), backward(nullptr);
  ForwardScratch<double>(in.states, forward);
  BackwardScratch<double>(in.states, backward);
  return forward.used() > backward.used() ? forward.used() : backward.used();
}

// A unit of work: rows [first, last) of the dim rows of one sample, all of one group.
struct Block {
  int64_t batch, group, number, first, last;

  Block(const Inputs& in, int64_t unit, int64_t rows) {
    const int64_t blocks = ceil_div(in.group_dim(), rows);
    number = unit % blocks;
    group = unit / blocks % in.groups;
    batch = unit / blocks / in.groups;
    first = group * in.group_dim() + number * rows;
    last = number + 1 < blocks ? first + rows : (group + 1) * in.group_dim();
  }
};

template <typename In>
MMSPARX_INLINE const In* row_of(const Rows& rows, int64_t batch, int64_t row) {
  return static_cast<const In*>(rows.data) + batch * rows.batch_stride + row * rows.row_stride;
}

template <typename T>
MMSPARX_INLINE Channel<T> channel_of(const Inputs& in, int64_t row) {
  const T* const D = static_cast<const T*>(in.D);
  const T* const bias = static_cast<const T*>(in.delta_bias);
  return {static_cast<const T*>(in.A) + row * in.states, D != nullptr, D ? D[row] : 0, bias ? bias[row] : 0};
}

// Returns the matrices of all states from position `start` on, and in `stride` the distance between two states.
template <typename T, typename In>
MMSPARX_INLINE const T* stage_matrices(const Matrices& matrices, int64_t batch, int64_t group, int64_t states,
                                       int64_t start, int count, T* buffer, int64_t& stride) {
  const In* const from =
      static_cast<const In*>(matrices.data) + batch * matrices.batch_stride + group * matrices.group_stride + start;
  stride = matrices.state_stride;
  const T* staged = nullptr;
  for (int64_t n = 0; n < states; n++) {
    const T* const place = stage<T>(from + n * matrices.state_stride, count, buffer + n * kTile);
    if (n == 0) staged = place;
  }
  if (staged == buffer) stride = kTile;
  return staged;
}

template <typename In, bool Softplus, bool OneState>
void forward_units(const Forward& f, int64_t begin, int64_t end, void* memory) {
  using T = State<In>;
  const Inputs& in = f.inputs;
  Scratch scratch(memory);
  const ForwardScratch<T> buffers(in.states, scratch);
  const int64_t saved = state_count(in.length);
  for (int64_t unit = begin; unit < end; unit++) {
    const Block block(in, unit, kForwardRows);
    const int64_t rows = block.last - block.first;
    for (int64_t i = 0; i < rows * in.states; i++) buffers.h[i] = 0;
    for (int64_t start = 0; start < in.length; start += kTile) {
      Tile<T> tile;
      tile.count = int(in.length - start < kTile ? in.length - start : kTile);
      tile.B = stage_matrices<T, In>(in.B, block.batch, block.group, in.states, start, tile.count, buffers.B,
                                      tile.B_stride);
      tile.C = stage_matrices<T, In>(in.C, block.batch, block.group, in.states, start, tile.count, buffers.C,
                                      tile.C_stride);
      for (int64_t r = 0; r < rows; r++) {
        const int64_t row = block.first + r, place = block.batch * in.dim + row;
        tile.u = stage<T>(row_of<In>(in.u, block.batch, row) + start, tile.count, buffers.u);
        tile.delta = stage<T>(row_of<In>(in.delta, block.batch, row) + start, tile.count, buffers.delta);
        In* const to = static_cast<In*>(f.out) + place * in.length + start;
        T* const out = destination<T>(to, buffers.out);
        T* const states = static_cast<T*>(f.states) + place * saved * in.states;
        if (start == 0) {
          for (int64_t n = 0; n < in.states; n++) states[n] = 0;
        }
        forward_tile<T, Softplus, OneState>(tile, channel_of<T>(in, row), in.states, buffers.h + r * in.states,
                                            states + (start / kChunk + 1) * in.states, in.states, out, buffers.work);
        unstage(out, tile.count, to);
      }
    }
  }
}

template <typename In, bool Softplus, bool OneState>
void backward_units(const Backward& b, int64_t begin, int64_t end, void* memory) {
  using T = State<In>;
  const Inputs& in = b.inputs;
  Scratch scratch(memory);
  const BackwardScratch<T> buffers(in.states, scratch);
  const int64_t saved = state_count(in.length);
  const int64_t last_tile = (in.length - 1) / kTile * kTile;
  for (int64_t unit = begin; unit < end; unit++) {
    const Block block(in, unit, kBackwardRows);
    const int64_t rows = block.last - block.first;
    for (int64_t i = 0; i < rows * in.states; i++) buffers.dh[i] = 0;
    for (int64_t row = block.first; row < block.last; row++) {
      const int64_t place = block.batch * in.dim + row;
      for (int64_t n = 0; n < in.states; n++) b.dA_partial[place * in.states + n] = 0;
      b.dD_partial[place] = b.dbias_partial[place] = 0;
    }
    for (int64_t start = last_tile; start >= 0; start -= kTile) {
      Tile<T> tile;
      tile.count = int(in.length - start < kTile ? in.length - start : kTile);
      tile.B = stage_matrices<T, In>(in.B, block.batch, block.group, in.states, start, tile.count, buffers.B,
                                      tile.B_stride);
      tile.C = stage_matrices<T, In>(in.C, block.batch, block.group, in.states, start, tile.count, buffers.C,
                                      tile.C_stride);
      for (int64_t i = 0; i < in.states * kTile; i++) buffers.dB[i] = buffers.dC[i] = 0;
      for (int64_t r = 0; r < rows; r++) {
        const int64_t row = block.first + r, place = block.batch * in.dim + row;
        tile.u = stage<T>(row_of<In>(in.u, block.batch, row) + start, tile.count, buffers.u);
        tile.delta = stage<T>(row_of<In>(in.delta, block.batch, row) + start, tile.count, buffers.delta);
        const T* const grad = stage<T>(row_of<In>(b.grad, block.batch, row) + start, tile.count, buffers.grad);
        In* const du_to = static_cast<In*>(b.du) + place * in.length + start;
        In* const ddelta_to = static_cast<In*>(b.ddelta) + place * in.length + start;
        T* const du = destination<T>(du_to, buffers.du);
        T* const ddelta = destination<T>(ddelta_to, buffers.ddelta);
        const T* const h = static_cast<const T*>(b.states) + (place * saved + start / kChunk) * in.states;
        const ChannelSums sums = {b.dA_partial + place * in.states, b.dD_partial + place, b.dbias_partial + place};
        backward_tile<T, Softplus, OneState>(tile, grad, channel_of<T>(in, row), in.states, h,
                                             buffers.dh + r * in.states, buffers.dB, buffers.dC, kTile, du, ddelta,
                                             sums, buffers.work);
        unstage(du, tile.count, du_to);
        unstage(ddelta, tile.count, ddelta_to);
      }
      const int64_t partial = ((block.batch * in.groups + block.group) * b.blocks + block.number) * in.states;
      for (int64_t n = 0; n < in.states; n++) {
        unstage(buffers.dB + n * kTile, tile.count, static_cast<T*>(b.dB_partial) + (partial + n) * in.length + start);
        unstage(buffers.dC + n * kTile, tile.count, static_cast<T*>(b.dC_partial) + (partial + n) * in.length + start);
      }
    }
  }
}

// Sums `blocks` arrays of `size` numbers, in order, to out (size).
template <typename In>
MMSPARX_INLINE void add_blocks(const State<In>* partial, int64_t blocks, int64_t size, In* out) {
  using T = State<In>;
  T total[kTile];
  for (int64_t start = 0; start < size; start += kTile) {
    const int count = int(size - start < kTile ? size - start : kTile);
    for (int i = 0; i < count; i++) total[i] = 0;
    for (int64_t block = 0; block < blocks; block++) {
      const T* const more = partial + block * size + start;
      for (int i = 0; i < count; i++) total[i] += more[i];
    }
    for (int i = 0; i < count; i++) narrow(total[i], out[start + i]);
  }
}

template <typename In>
void add_partials(const Backward& b, int64_t begin, int64_t end) {
  using T = State<In>;
  const int64_t size = b.inputs.states * b.inputs.length, blocks = b.blocks;
  for (int64_t unit = begin; unit < end; unit++) {
    add_blocks(static_cast<const T*>(b.dB_partial) + unit * blocks * size, blocks, size,
               static_cast<In*>(b.dB) + unit * size);
    add_blocks(static_cast<const T*>(b.dC_partial) + unit * blocks * size, blocks, size,
               static_cast<In*>(b.dC) + unit * size);
  }
}

}  // namespace
}  // namespace mmsparx
