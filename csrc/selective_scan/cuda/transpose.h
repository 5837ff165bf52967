// The transpose of maps, or of one summand of them.

#pragma once

#include "tiles.h"

namespace mmsparx {
namespace {

constexpr int kTransposeWarps = 4;

struct TransposeArguments {
  int64_t maps, channels, height, width;  // of `from`; maps: of all samples
  Rows from;                              // (batch, channels, height * width)
  Rows added;                             // (batch, channels, width * height) to be added, or no data
  void* to;                               // (batch, channels, width, height)
};

// Of a tile of so many rows and columns; rows are a number longer, so that no two of a column share a bank.
template <typename T>
constexpr size_t kTransposeBytes = kTransposeWarps * kLanes * (kLanes + 1) * sizeof(T);

// A warp a square of 32 pixels a side.
template <typename T>
MMSPARX_KERNEL(kTransposeWarps* kLanes, 8)
transpose_kernel(const TransposeArguments arguments) {
  MMSPARX_SHARED_MEMORY(memory);
  constexpr int kRow = kLanes + 1;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int height = int(arguments.height), width = int(arguments.width);
  const int64_t across = (width + kLanes - 1) / kLanes, squares = (height + kLanes - 1) / kLanes * across;
  const int64_t place = int64_t(blockIdx.x) * kTransposeWarps + warp, map = place / squares, square = place % squares;
  if (map >= arguments.maps) return;
  const int64_t batch = map / arguments.channels, channel = map % arguments.channels;
  const int left = int(square % across) * kLanes, top = int(square / across) * kLanes;
  const int columns = width - left < kLanes ? width - left : kLanes;
  const int rows = height - top < kLanes ? height - top : kLanes;
  T* const shared = reinterpret_cast<T*>(memory) + warp * kLanes * kRow;

  // Reads on their way at once: what is written might be what is read next, for all that the compiler knows.
  constexpr int kReads = 8;
  const T* const from = row_of<T>(arguments.from, batch, channel) + int64_t(top) * width + left;
  for (int first = 0; first < rows; first += kReads) {
    T pixels[kReads];
#pragma unroll
    for (int i = 0; i < kReads; i++) {
      if (lane < columns && first + i < rows) pixels[i] = from[int64_t(first + i) * width + lane];
    }
#pragma unroll
    for (int i = 0; i < kReads; i++) {
      if (lane < columns && first + i < rows) shared[(first + i) * kRow + lane] = pixels[i];
    }
  }
  sync_warp();
  const int64_t corner = int64_t(left) * height + top;
  const T* const added = arguments.added.data ? row_of<T>(arguments.added, batch, channel) + corner : nullptr;
  T* const to = static_cast<T*>(arguments.to) + map * height * width + corner;
  for (int first = 0; first < columns; first += kReads) {
    State<T> pixels[kReads] = {};
#pragma unroll
    for (int i = 0; i < kReads; i++) {
      if (added && lane < rows && first + i < columns) pixels[i] = widen(added[int64_t(first + i) * height + lane]);
    }
#pragma unroll
    for (int i = 0; i < kReads; i++) {
      if (lane < rows && first + i < columns) {
        narrow(pixels[i] + widen(shared[lane * kRow + first + i]), to[int64_t(first + i) * height + lane]);
      }
    }
  }
}

}  // namespace
}  // namespace mmsparx
