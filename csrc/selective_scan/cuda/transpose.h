// The transpose of maps, or of sums of maps.

#pragma once

#include "tiles.h"

namespace mmsparx {
namespace {

constexpr int kTransposeWarps = 4;

struct TransposeArguments {
  int64_t maps, channels, height, width;  // sizes of `from`; `maps` counts those of all samples
  Rows from[2];                           // (batch, channels, height * width)
  Rows added[2];                          // (batch, channels, width * height)
  void* to;                               // (batch, channels, width, height)
};

// Bytes of shared memory of a block: a square of pixels per warp, whose rows are one number longer, so that no two
// numbers of a column share a bank.
template <typename T>
constexpr size_t kTransposeBytes = kTransposeWarps * kLanes * (kLanes + 1) * sizeof(T);

// A column of pixels of a map, of the sum of two maps, or of no map.
template <typename T, int kMaps>
struct Column {
  using Value = std::conditional_t<kMaps == 1, T, State<T>>;  // a single map is not converted
  const unsigned char* at[kMaps ? kMaps : 1];
  int64_t step;  // bytes from row to row

  MMSPARX_INLINE Column(const Rows (&rows)[2], int64_t batch, int64_t channel, uint32_t corner, uint32_t width)
      : step(opaque(int64_t(width * sizeof(T)))) {
#pragma unroll
    for (int m = 0; m < kMaps; m++) {
      at[m] = reinterpret_cast<const unsigned char*>(row_of<T>(rows[m], batch, channel) + corner);
    }
  }
  MMSPARX_INLINE Value read() const {
    const T first = *reinterpret_cast<const T*>(at[0]);
    if constexpr (kMaps == 1) {
      return first;
    } else {
      return widen(first) + widen(*reinterpret_cast<const T*>(at[1]));
    }
  }
  MMSPARX_INLINE void advance() {
#pragma unroll
    for (int m = 0; m < kMaps; m++) at[m] += step;
  }
};

// Each warp takes a square of 32 x 32 pixels: it sums kFrom maps, transposes the sum and adds kAdded maps to it.
// Numbers of pixels of a map have 31 bits.
template <typename T, int kFrom, int kAdded>
MMSPARX_KERNEL(kTransposeWarps* kLanes, 8)
transpose_kernel(const TransposeArguments arguments) {
  MMSPARX_SHARED_MEMORY(memory);
  using Value = typename Column<T, kFrom>::Value;
  constexpr int kRow = kLanes + 1;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const uint32_t height = uint32_t(arguments.height), width = uint32_t(arguments.width);
  const uint32_t across = (width + kLanes - 1) / kLanes, squares = (height + kLanes - 1) / kLanes * across;
  const int64_t place = int64_t(blockIdx.x) * kTransposeWarps + warp, map = quotient_of(place, squares);
  if (map >= arguments.maps) return;
  const uint32_t square = uint32_t(place - map * squares);
  const uint32_t left = square % across * kLanes, top = square / across * kLanes;
  const int64_t batch = quotient_of(map, arguments.channels), channel = map - batch * arguments.channels;
  const int columns = width - left < kLanes ? int(width - left) : kLanes;
  const int rows = height - top < kLanes ? int(height - top) : kLanes;
  Value* const shared = reinterpret_cast<Value*>(memory) + warp * kLanes * kRow;

  // Number of reads in flight. The compiler cannot move reads before writes, since for all that it knows they may
  // overlap.
  constexpr int kReads = 8;
  if (lane < columns) {
    Column<T, kFrom> from(arguments.from, batch, channel, top * width + left + lane, width);
    Value* here = shared + lane;
    for (int left_over = rows; left_over > 0; left_over -= kReads) {
      Value pixels[kReads];
#pragma unroll
      for (int i = 0; i < kReads; i++) {
        if (i < left_over) pixels[i] = from.read();
        from.advance();
      }
#pragma unroll
      for (int i = 0; i < kReads; i++) {
        if (i < left_over) here[i * kRow] = pixels[i];
      }
      here += kReads * kRow;
    }
  }
  sync_warp();
  if (lane >= rows) return;
  const uint32_t corner = left * height + top + lane;
  Column<T, kAdded> added(arguments.added, batch, channel, corner, height);
  unsigned char* to = reinterpret_cast<unsigned char*>(static_cast<T*>(arguments.to) + map * height * width + corner);
  const int64_t step = opaque(int64_t(height * sizeof(T)));
  const Value* here = shared + lane * kRow;
  for (int left_over = columns; left_over > 0; left_over -= kReads) {
    T pixels[kReads];
#pragma unroll
    for (int i = 0; i < kReads; i++) {
      if (i < left_over) {
        if constexpr (kAdded == 0) {
          pixels[i] = here[i];
        } else {
          narrow(widen(added.read()) + widen(here[i]), pixels[i]);
        }
      }
      added.advance();
    }
#pragma unroll
    for (int i = 0; i < kReads; i++) {
      if (i < left_over) *reinterpret_cast<T*>(to) = pixels[i];
      to += step;
    }
    here += kReads;
  }
}

}  // namespace
}  // namespace mmsparx
