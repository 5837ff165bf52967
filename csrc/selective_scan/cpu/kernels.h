// The CPU kernels, compiled once per instruction set.

#pragma once

#include "../../common/cpu/prelude.h"
#include "../selective_scan.h"

namespace mmsparx {

// Number of rows of u that one call scans. It is fixed, rather than derived from the number of threads, because it
// affects the rounding of the sums over a block's rows.
constexpr int64_t kForwardRows = 16;
constexpr int64_t kBackwardRows = 32;
constexpr int64_t kCrossRows = 16;  // channels of a map, in the backward
// Number of channels of a map that are scanned together, so that they share reads of the step.
constexpr int kAbreast = 4;

inline int64_t forward_blocks(const Inputs& in) { return ceil_div(in.group_dim(), kForwardRows); }
inline int64_t backward_blocks(const Inputs& in) { return ceil_div(in.group_dim(), kBackwardRows); }

inline int64_t cross_forward_blocks(const Inputs& in) { return ceil_div(in.group_dim(), kAbreast); }
inline int64_t cross_backward_blocks(const Inputs& in) { return ceil_div(in.group_dim(), kCrossRows); }

// Work is split into independent units: (batch, group, block of rows) for the scans, and (batch, block of channels) for
// cross scans. Their partial sums are added in units of (batch, group). The caller provides `scratch`, one per thread.
struct Kernels {
  int64_t (*scratch_bytes)(const Inputs&);  // for forward or backward
  void (*forward)(const Forward&, int64_t begin, int64_t end, void* scratch);
  void (*backward)(const Backward&, int64_t begin, int64_t end, void* scratch);
  void (*add_partials)(const Backward&, int64_t begin, int64_t end);
  int64_t (*cross_scratch_bytes)(const Inputs&);
  void (*cross_forward)(const CrossForward&, int64_t begin, int64_t end, void* scratch);
  void (*cross_backward)(const CrossBackward&, int64_t begin, int64_t end, void* scratch);
  void (*cross_add_partials)(const CrossBackward&, int64_t begin, int64_t end);
};

// Null if this build has no kernels for the instruction set.
const Kernels* avx512_kernels();
const Kernels* avx2_kernels();
const Kernels* baseline_kernels();

}  // namespace mmsparx
