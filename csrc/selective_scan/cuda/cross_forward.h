// The forward of the cross scan, with a warp for the rows or the columns of a channel, which it scans forwards and
// backwards.
//
// Small maps stay in a block's shared memory, where they are transposed, summed and merged. Larger maps are transposed
// in global memory before the scan, and merged there after it.

#pragma once

#include "forward.h"

namespace mmsparx {
namespace {

struct CrossForwardArguments {
  Forward forward;  // has four groups; u is (batch, channels, length), and so is out of small maps
  int64_t channels, height, width;
  Rows columns;  // u transposed
  void* lines;   // (batch, 2, channels, length): the sums along rows and along columns
  int vector;    // see Items
};

// Scans a channel in one order, forwards and backwards, and sums the two. `order` is 0 for rows and 1 for columns; u
// and out are in this order.
template <typename In, typename Out, int kStates>
MMSPARX_INLINE void scan_there_and_back(const CrossForwardArguments& arguments, uint32_t batch, uint32_t order,
                                        uint32_t channel, const In* u, Out* out, State<In>* entering) {
#pragma unroll 1
  for (uint32_t back = 0; back < 2; back++) {
    const uint32_t group = order + 2 * back, row = group * uint32_t(arguments.channels) + channel;
    scan_row<In, Out, kStates>(arguments.forward, vector_of(arguments), batch, group, row, u, out, entering, back);
  }
}

template <typename In, int kStates>
MMSPARX_KERNEL(kForwardWarps* kLanes, (kForwardBlocks<State<In>, kStates>))
cross_forward_kernel(const CrossForwardArguments arguments) {
  MMSPARX_SHARED_MEMORY(memory);
  const Inputs& in = arguments.forward.inputs;
  const uint32_t warp = threadIdx.x / kLanes, channels = uint32_t(arguments.channels);
  const uint32_t place = blockIdx.x * kForwardWarps + warp;
  if (place >= in.batch * 2 * channels) return;
  const uint32_t channel = place % channels, order = place / channels % 2, batch = place / channels / 2;
  scan_there_and_back<In, In, kStates>(
      arguments, batch, order, channel,
      order ? row_of<In>(arguments.columns, batch, channel) : row_of<In>(in.u, batch, channel),
      static_cast<In*>(arguments.lines) + int64_t(place) * in.length,
      reinterpret_cast<State<In>*>(memory) + warp * in.states);
}

constexpr int kCrossWarps = 2;

// The shared memory of a small map: the sums along rows and along columns, the transposed map, and the states between
// two tiles, per warp and state. Every part is aligned to 16 bytes.
template <typename In>
struct SmallCrossMemory {
  using S = State<In>;
  int64_t padded, states;

  MMSPARX_BOTH explicit SmallCrossMemory(const Inputs& in)
      : padded((in.length + 7) / 8 * 8), states(in.states == 1 ? 0 : in.states) {}
  MMSPARX_BOTH size_t bytes() const {
    return size_t(kCrossWarps * (padded + states)) * sizeof(S) + size_t(padded) * sizeof(In);
  }
  MMSPARX_BOTH S* line(void* memory, int order) const { return static_cast<S*>(memory) + order * padded; }
  MMSPARX_BOTH In* transposed(void* memory) const { return reinterpret_cast<In*>(line(memory, kCrossWarps)); }
  MMSPARX_BOTH S* entering(void* memory, int warp) const {
    return reinterpret_cast<S*>(transposed(memory) + padded) + warp * states;
  }
};

// The walk of a block's threads over the pixels of a map.
struct Pixels {
  const int height, width, stride;
  int position, row, column;

  MMSPARX_INLINE Pixels(int height, int width, int stride, int thread)
      : height(height), width(width), stride(stride), position(thread), row(thread / width), column(thread % width) {}
  MMSPARX_INLINE bool within() const { return row < height; }
  MMSPARX_INLINE int transposed() const { return column * height + row; }
  MMSPARX_INLINE void advance() {
    position += stride;
    row += stride / width;
    column += stride % width;
    if (column >= width) {
      column -= width;
      row++;
    }
  }
};

// Each block takes a channel, with one warp for its rows and another for its columns.
template <typename In, int kStates>
MMSPARX_KERNEL(kCrossWarps* kLanes, (kForwardBlocks<State<In>, kStates> * kForwardWarps / kCrossWarps))
small_cross_forward_kernel(const CrossForwardArguments arguments) {
  using S = State<In>;
  MMSPARX_SHARED_MEMORY(memory);
  const Inputs& in = arguments.forward.inputs;
  const uint32_t channels = uint32_t(arguments.channels);
  const uint32_t batch = blockIdx.x / channels, channel = blockIdx.x % channels;
  const int height = int(arguments.height), width = int(arguments.width);
  const int order = threadIdx.x / kLanes;
  const SmallCrossMemory<In> parts(in);
  const In* const rows = row_of<In>(in.u, batch, channel);
  In* const transposed = parts.transposed(memory);
  for (Pixels at(height, width, kCrossWarps * kLanes, threadIdx.x); at.within();) {
    constexpr int kReads = 8;  // in flight
    In pixels[kReads];
#pragma unroll
    for (int i = 0; i < kReads; i++) {
      if (at.position + i * at.stride < in.length) pixels[i] = rows[at.position + i * at.stride];
    }
#pragma unroll
    for (int i = 0; i < kReads; i++) {
      if (at.within()) transposed[at.transposed()] = pixels[i];
      at.advance();
    }
  }
  sync_block();
  scan_there_and_back<In, S, kStates>(arguments, batch, order, channel, order ? transposed : rows,
                                      parts.line(memory, order), parts.entering(memory, order));
  sync_block();
  In* const out = static_cast<In*>(arguments.forward.out) + int64_t(blockIdx.x) * in.length;
  const S *const along_rows = parts.line(memory, 0), *const along_columns = parts.line(memory, 1);
#pragma unroll 4
  for (Pixels at(height, width, kCrossWarps * kLanes, threadIdx.x); at.within(); at.advance()) {
    narrow(along_rows[at.position] + along_columns[at.transposed()], out[at.position]);
  }
}

}  // namespace
}  // namespace mmsparx
