// The interface of the GPU kernels for the binding. This header uses neither torch nor CUDA.

#pragma once

#include "../selective_scan.h"

namespace mmsparx {

// Working memory of a cross scan, uninitialised: (batch, channels, width * height), except for `lines`.
struct CrossMemory {
  void* columns;       // unused by a forward without lines
  void* grad_columns;  // used by a backward
  void* lines;         // (batch, cross_forward_lines, or 4 in a backward, channels, length)
};

// Functions for one type of inputs. `stream` is a cudaStream_t. Nothing waits for the GPU, and the caller checks for
// errors.
struct GpuKernels {
  int64_t (*backward_blocks)(const Inputs&);     // Backward::blocks
  int64_t (*backward_positions)(const Inputs&);  // Backward::positions
  void (*forward)(const Forward&, void* stream);
  void (*backward)(const Backward&, void* stream);  // without the sums over samples
  int64_t (*cross_forward_lines)(const Inputs&);    // of CrossMemory; 0 if shared memory is enough
  void (*cross_forward)(const CrossForward&, const CrossMemory&, void* stream);
  void (*cross_backward)(const CrossBackward&, const CrossMemory&, void* stream);  // like `backward`
};

GpuKernels double_kernels();
GpuKernels float_kernels();
GpuKernels bfloat16_kernels();
GpuKernels half_kernels();

inline GpuKernels gpu_kernels(Type type) {
  switch (type) {
    case Type::kDouble:
      return double_kernels();
    case Type::kFloat:
      return float_kernels();
    case Type::kBFloat16:
      return bfloat16_kernels();
    default:
      return half_kernels();
  }
}

// Returns null, or the limit that these inputs exceed.
inline const char* too_large(const Inputs& in) {
  constexpr int64_t kMostStates = 1024, kMostPositions = (int64_t{1} << 31) - 4096, kMostRows = int64_t{1} << 31;
  if (in.states > kMostStates) return "at most 1024 states";
  if (in.length > kMostPositions) return "at most 2^31 - 4096 positions";
  if (in.batch * in.dim >= kMostRows) return "less than 2^31 rows (batch x dim)";
  return nullptr;
}

}  // namespace mmsparx
