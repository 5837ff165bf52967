// The GPU kernels as the binding calls them: no torch here, nor anything of CUDA.

#pragma once

#include "../selective_scan.h"

namespace mmsparx {

// Working memory of a cross scan, (batch, channels, width * height) but for the last; uninitialised.
struct CrossMemory {
  void* columns;       // not used by a forward without lines
  void* grad_columns;  // of a backward
  void* lines;         // (batch, cross_forward_lines or cross_backward_lines, channels, length)
};

// For one type of inputs. `stream` is a cudaStream_t; nothing waits, and errors are left to the caller to ask for.
struct GpuKernels {
  int64_t (*backward_blocks)(const Inputs&);     // Backward::blocks
  int64_t (*backward_positions)(const Inputs&);  // Backward::positions
  void (*forward)(const Forward&, void* stream);
  void (*backward)(const Backward&, void* stream);  // all but the sums over samples
  int64_t (*cross_forward_lines)(const Inputs&);    // of a CrossMemory, none if shared memory does
  void (*cross_forward)(const CrossForward&, const CrossMemory&, void* stream);
  int64_t (*cross_backward_lines)(const Inputs&);
  void (*cross_backward)(const CrossBackward&, const CrossMemory&, void* stream);  // as `backward`
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

// Null, or what of these inputs the kernels cannot count.
inline const char* too_large(const Inputs& in) {
  constexpr int64_t kMostStates = 1024, kMostPositions = (int64_t{1} << 31) - 4096, kMostRows = int64_t{1} << 31;
  if (in.states > kMostStates) return "at most 1024 states";
  if (in.length > kMostPositions) return "at most 2^31 - 4096 positions";
  if (in.batch * in.dim >= kMostRows) return "less than 2^31 rows (batch x dim)";
  return nullptr;
}

}  // namespace mmsparx
