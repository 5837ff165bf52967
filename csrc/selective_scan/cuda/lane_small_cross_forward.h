// The forward of the cross scan of many small maps, with a lane per channel and a warp per direction.
//
// A block has 32 channels of a sample. It reads their maps and deltas once into shared memory, where each warp walks
// through the maps along its direction and overwrites its deltas with outputs. Then the four directions are summed.

#pragma once

#include "lane_rows.h"
#include "cross_forward.h"

namespace mmsparx {
namespace {

struct LaneSmallCrossArguments {
  Forward forward;  // as in CrossForwardArguments
  int64_t channels, height, width;
  bool flat;   // a block's rows are read as one, since they are contiguous in both memories
  int vector;  // items that one instruction moves: a power of two that divides the offset of a block, or of a row
};

// The inputs of a direction at a position, besides delta.
struct alignas(16) Step {
  float B, C;
  int pixel, unused;
};

// The shared memory of a block: the steps of each direction, the maps, and the deltas of each direction. Rows whose
// number of words is a multiple of 4 are a word longer, so that no more than two lanes share a bank.
template <typename In>
struct LaneSmallCrossMemory {
  int length, padding;

  MMSPARX_BOTH explicit LaneSmallCrossMemory(const Inputs& in)
      : length(int(in.length)), padding(in.length * sizeof(In) % 16 ? 0 : int(4 / sizeof(In))) {}
  MMSPARX_BOTH int row() const { return length + padding; }
  MMSPARX_BOTH size_t bytes() const {
    return kDirections * sizeof(Step) * size_t(length) + (1 + kDirections) * kLanes * sizeof(In) * size_t(row());
  }
  MMSPARX_BOTH Step* steps(void* memory, int direction) const {
    return static_cast<Step*>(memory) + direction * length;
  }
  MMSPARX_BOTH In* maps(void* memory) const { return reinterpret_cast<In*>(steps(memory, kDirections)); }
  MMSPARX_BOTH In* deltas(void* memory, int direction) const {
    return maps(memory) + (1 + direction) * kLanes * row();
  }

  // Loads rows with kThreads threads, of which `thread` is this one.
  template <int kThreads>
  MMSPARX_INLINE void load(In* to, const In* from, int64_t stride, int rows,
                           const LaneSmallCrossArguments& arguments, int thread) const {
    const int vector = vector_of(arguments);
    constexpr int kWord = 4 / sizeof(In);
    if (arguments.flat) {
      load_flat<kThreads>(to, from, rows * length, vector, thread);
    } else if (vector >= kWord) {
      load_rows<kThreads, kWord>(to, from, stride, rows, thread);
    } else {
      load_rows<kThreads, 1>(to, from, stride, rows, thread);
    }
  }

 private:
  template <int kThreads, int kPiece = 16 / sizeof(In)>
  static MMSPARX_INLINE void load_flat(In* to, const In* from, int items, int vector, int thread) {
    if constexpr (kPiece > 1) {
      if (vector < kPiece) return load_flat<kThreads, kPiece / 2>(to, from, items, vector, thread);
    }
    using Whole = Piece<kPiece * sizeof(In)>;
    constexpr int kReads = 4, kStride = kThreads * kPiece;  // kReads: reads in flight
    from += thread * kPiece;
    to += thread * kPiece;
    check_aligned<sizeof(Whole)>(from);
    for (int left = items - thread * kPiece; left > 0; left -= kReads * kStride) {
      Whole pieces[kReads];
#pragma unroll
      for (int i = 0; i < kReads; i++) {
        if (i * kStride < left) pieces[i] = *reinterpret_cast<const Whole*>(from + i * kStride);
      }
#pragma unroll
      for (int i = 0; i < kReads; i++) {
        if (i * kStride < left) *reinterpret_cast<Whole*>(to + i * kStride) = pieces[i];
      }
      from += kReads * kStride;
      to += kReads * kStride;
    }
  }

  template <int kThreads, int kPiece>
  MMSPARX_INLINE void load_rows(In* to, const In* from, int64_t stride, int rows, int thread) const {
    using Whole = Piece<kPiece * sizeof(In)>;
    constexpr int kReads = 8;
    for (int i = thread * kPiece; i < length; i += kThreads * kPiece) {
      for (int first = 0; first < rows; first += kReads) {
        Whole pieces[kReads];
#pragma unroll
        for (int r = 0; r < kReads; r++) {
          const In* const piece = from + (first + r) * stride + i;
          if (first + r < rows) check_aligned<sizeof(Whole)>(piece);
          if (first + r < rows) pieces[r] = *reinterpret_cast<const Whole*>(piece);
        }
#pragma unroll
        for (int r = 0; r < kReads; r++) {
          if (first + r < rows) *reinterpret_cast<Whole*>(to + (first + r) * row() + i) = pieces[r];
        }
      }
    }
  }
};

// The scan of a channel along a direction.
template <typename In>
struct LaneWalk {
  LaneRow<In> row;
  const Step* steps;
  const In* map;
  In* deltas;  // overwritten by outputs

  template <int kItems>
  MMSPARX_INLINE void advance(int start) {
    float step[kItems], y[kItems];
#pragma unroll
    for (int i = 0; i < kItems; i++) step[i] = widen(deltas[start + i]);
    row.make_steps(step);
#pragma unroll
    for (int i = 0; i < kItems; i++) {
      const Step at = steps[start + i];
      y[i] = row.advance(widen(map[at.pixel]), step[i], at.B, at.C);
    }
#pragma unroll
    for (int i = 0; i < kItems; i++) narrow(y[i], deltas[start + i]);
  }

  // Scans the row and writes its states to `saved`.
  MMSPARX_INLINE void run(int length, float* saved) {
    constexpr int kItems = 8;
    *saved = 0;
    for (int start = 0; start < length; start += kChunk) {
      const int end = start + int(kChunk) < length ? start + int(kChunk) : length;
      int at = start;
#pragma unroll 1
      for (; end - at >= kItems; at += kItems) advance<kItems>(at);
#pragma unroll 1
      for (; at < end; at++) advance<1>(at);
      *++saved = row.h;
    }
  }
};

// 7 blocks must fit into a multiprocessor; with one more, registers would be spilled.
template <typename In>
MMSPARX_KERNEL(kDirections* kLanes, 7)
lane_small_cross_forward_kernel(const LaneSmallCrossArguments arguments) {
  MMSPARX_SHARED_MEMORY(memory);
  const Inputs& in = arguments.forward.inputs;
  const LaneSmallCrossMemory<In> parts(in);
  const int length = int(in.length), height = int(arguments.height), width = int(arguments.width);
  const int lane = threadIdx.x % kLanes, direction = threadIdx.x / kLanes;
  const uint32_t channels = uint32_t(arguments.channels), units = (channels + kLanes - 1) / kLanes;
  const uint32_t batch = blockIdx.x / units, first = blockIdx.x % units * kLanes;
  const int count = channels - first < kLanes ? int(channels - first) : kLanes;
  In* const maps = parts.maps(memory);
  In* const deltas = parts.deltas(memory, direction);
  Step* const steps = parts.steps(memory, direction);

  parts.template load<kDirections * kLanes>(maps, row_of<In>(in.u, batch, first), in.u.row_stride, count, arguments,
                                            threadIdx.x);
  const int64_t first_row = int64_t(direction) * channels + first;
  parts.template load<kLanes>(deltas, row_of<In>(in.delta, batch, first_row), in.delta.row_stride, count, arguments,
                              lane);
  const In *const B = matrices_of<In>(in.B, batch, direction), *const C = matrices_of<In>(in.C, batch, direction);
  const float unit = LaneRow<In>::unit(in);
  for (int t = lane; t < length; t += kLanes) {
    const int place = direction < 2 ? t : length - 1 - t;
    steps[t].B = widen(B[t]) * unit;
    steps[t].C = widen(C[t]);
    steps[t].pixel = direction % 2 ? place % height * width + place / height : place;
  }
  sync_block();

  if (lane < count) {
    const int64_t row = first_row + lane;
    float* const saved = static_cast<float*>(arguments.forward.states) + (batch * in.dim + row) * state_count(length);
    const int begin = lane * parts.row();
    LaneWalk<In>{LaneRow<In>(in, row), steps, maps + begin, deltas + begin}.run(length, saved);
  }
  sync_block();

  for (int p = lane; p < length; p += kLanes) {
    const int across = p % width * height + p / width;
    const int places[kDirections] = {p, across, length - 1 - p, length - 1 - across};
    const In* lines[kDirections];
#pragma unroll
    for (int k = 0; k < kDirections; k++) lines[k] = parts.deltas(memory, k) + direction * parts.row() + places[k];
    In* out = static_cast<In*>(arguments.forward.out) + (int64_t(batch) * channels + first + direction) * length + p;
#pragma unroll 4
    for (int c = direction; c < count; c += kDirections) {
      float y[kDirections];
#pragma unroll
      for (int k = 0; k < kDirections; k++) {
        y[k] = widen(*lines[k]);
        lines[k] += kDirections * parts.row();
      }
      narrow((y[0] + y[2]) + (y[1] + y[3]), *out);
      out += kDirections * length;
    }
  }
}

}  // namespace
}  // namespace mmsparx
