// What the kernels ask of the machine they run on, by CUDA's names.
//
// The tests compile the same kernels for a CPU, by an emulation of a block's threads that takes this file's
// place (MMSPARX_EMULATED).

#pragma once

#if !defined(MMSPARX_EMULATED)

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#define MMSPARX_INLINE __device__ __forceinline__
// Of the host, too.
#define MMSPARX_BOTH __host__ __device__ __forceinline__
// Of so many threads a block, and so few registers that so many blocks fit into a multiprocessor.
#define MMSPARX_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
// Of a block's threads; its size is given at the launch.
#define MMSPARX_SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]

namespace mmsparx {
namespace {

using Stream = cudaStream_t;
template <typename S>
MMSPARX_INLINE S shuffle_up(S x, int distance) { return __shfl_up_sync(0xffffffffu, x, distance); }
template <typename S>
MMSPARX_INLINE S shuffle_down(S x, int distance) { return __shfl_down_sync(0xffffffffu, x, distance); }
template <typename S>
MMSPARX_INLINE S shuffle(S x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
template <typename S>
MMSPARX_INLINE S shuffle_xor(S x, int distance) { return __shfl_xor_sync(0xffffffffu, x, distance); }
MMSPARX_INLINE void sync_warp() { __syncwarp(); }

// The same number, of which the compiler no longer knows where it comes from: it computes its multiples one from the
// other instead of each from the start, and computes it once instead of wherever it is used.
MMSPARX_INLINE int64_t opaque(int64_t x) {
  asm("" : "+l"(x));
  return x;
}
MMSPARX_INLINE int opaque(int x) {
  asm("" : "+r"(x));
  return x;
}
MMSPARX_INLINE float opaque(float x) {
  asm("" : "+f"(x));
  return x;
}
// Of an address in global memory, which the compiler would forget otherwise.
template <typename T>
MMSPARX_INLINE T* opaque(T* global) {
  asm("" : "+l"(global));
  __builtin_assume(__isGlobal(global));
  return global;
}

// All warps of a block.
MMSPARX_INLINE void sync_block() { __syncthreads(); }

// Nothing here: the hardware stops at an address that is no multiple of what is moved.
template <int kBytes>
MMSPARX_INLINE void check_aligned(const void*) {}

inline int64_t attribute_of_device(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

// Warps that fill the device where a multiprocessor holds 16: twice as many as it holds, so that few idle at the end.
inline int64_t enough_warps() { return 2 * 16 * attribute_of_device(cudaDevAttrMultiProcessorCount); }

// Whether rows, so many to a group, fill the device where each takes a lane, 32 of a group a warp. They do with 14
// warps for a multiprocessor, 3 or 4 for each of its schedulers, so that one runs while others wait for memory: with
// 132 multiprocessors, from 59 136 rows on. Groups of fewer than 32 would leave lanes idle.
inline bool lanes_fill_device(int64_t rows, int64_t of_a_group) {
  return of_a_group >= 32 && rows >= 14 * 32 * attribute_of_device(cudaDevAttrMultiProcessorCount);
}

constexpr int64_t kSystemBytes = 1 << 10;  // of a block's shared memory

// Blocks of so much shared memory that a multiprocessor holds.
inline int64_t blocks_that_fit(size_t shared_bytes) {
  return attribute_of_device(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / (int64_t(shared_bytes) + kSystemBytes);
}

// Shared memory that a block may ask for, so that a multiprocessor holds two.
inline size_t most_shared_bytes() {
  const int64_t half = attribute_of_device(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / 2 - kSystemBytes;
  const int64_t most = attribute_of_device(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return size_t(half < most ? half : most);
}

// What a block has without being asked for, on every device.
constexpr size_t kSharedBytes = 48 << 10;

template <typename Argument>
void launch(void (*kernel)(Argument), unsigned blocks, unsigned threads, size_t shared_bytes, Stream stream,
            const Argument& argument) {
  if (shared_bytes > kSharedBytes) {
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                         int(shared_bytes));
  }
  kernel<<<blocks, threads, shared_bytes, stream>>>(argument);
}

}  // namespace
}  // namespace mmsparx

#endif
