// The CUDA features that the kernels use.
//
// The tests compile the same kernels for the CPU, with an emulation of a block's threads in place of this file
// (MMSPARX_EMULATED).

#pragma once

#if !defined(MMSPARX_EMULATED)

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#define MMSPARX_INLINE __device__ __forceinline__
// Declares a function of both device and host.
#define MMSPARX_BOTH __host__ __device__ __forceinline__
// Declares a kernel for blocks of `threads` threads, with so few registers that `blocks` blocks fit into a
// multiprocessor.
#define MMSPARX_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
// Declares the shared memory of a block, whose size is an argument of the launch.
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

// Returns x, but hides its origin from the compiler, which then computes multiples of x one from the other instead of
// each from the start, and x once instead of at every use.
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
// Does the same for an address in global memory; the compiler would forget its address space otherwise.
template <typename T>
MMSPARX_INLINE T* opaque(T* global) {
  asm("" : "+l"(global));
  __builtin_assume(__isGlobal(global));
  return global;
}

// Waits for all warps of a block.
MMSPARX_INLINE void sync_block() { __syncthreads(); }

// Does nothing here: the hardware faults at an address that is not a multiple of the bytes moved.
template <int kBytes>
MMSPARX_INLINE void check_aligned(const void*) {}

inline int64_t attribute_of_device(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

// Returns the number of warps that fill the device if a multiprocessor holds 16: twice as many as it holds, so that few
// multiprocessors idle at the end.
inline int64_t enough_warps() { return 2 * 16 * attribute_of_device(cudaDevAttrMultiProcessorCount); }

// Returns whether `rows` rows fill the device with a lane per row, where a warp takes 32 rows of a group. They do with
// 14 warps per multiprocessor, 3 or 4 for each of its schedulers, so that one runs while others wait for memory: from
// 59 136 rows on with 132 multiprocessors. Groups of fewer than 32 rows would leave lanes idle.
inline bool lanes_fill_device(int64_t rows, int64_t of_a_group) {
  return of_a_group >= 32 && rows >= 14 * 32 * attribute_of_device(cudaDevAttrMultiProcessorCount);
}

constexpr int64_t kSystemBytes = 1 << 10;  // shared memory of a block that the system reserves

// Returns the number of blocks with `shared_bytes` of shared memory that fit into a multiprocessor.
inline int64_t blocks_that_fit(size_t shared_bytes) {
  return attribute_of_device(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / (int64_t(shared_bytes) + kSystemBytes);
}

// Returns the most shared memory that a block may request if a multiprocessor is to hold two blocks.
inline size_t most_shared_bytes() {
  const int64_t half = attribute_of_device(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / 2 - kSystemBytes;
  const int64_t most = attribute_of_device(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return size_t(half < most ? half : most);
}

// Shared memory that a block has on every device without a request.
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
