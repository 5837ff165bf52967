// The CPU kernels, once per instruction set.

#pragma once

#include "../../common/cpu/prelude.h"
#include "../selective_scan.h"

namespace mmsparx {

// Rows of u that are scanned by one call. Fixed, not derived from the number of threads: the sums over
// the rows of a block are part of the result.
constexpr int64_t kForwardRows = 16;
constexpr int64_t kBackwardRows = 32;
constexpr int64_t kCrossRows = 16;  // channels of a map, in the backward
// Channels of a map that are scanned side by side, so that they share what they read of the step.
constexpr int kAbreast = 4;

inline int64_t forward_blocks(const Inputs& in) { return ceil_div(in.group_dim(), kForwardRows); }
inline int64_t backward_blocks(const Inputs& in) { return ceil_div(in.group_dim(), kBackwardRows); }

inline int64_t cross_forward_blocks(const Inputs& in) { return ceil_div(in.group_dim(), kAbreast); }
inline int64_t cross_backward_blocks(const Inputs& in) { return ceil_div(in.group_dim(), kCrossRows); }

// Work is cut into units, which are independent: (batch, group, block of rows) for the scans, and
// (batch, block of channels) for cross scans. Their partial sums are added up in units of (batch, group).
// `scratch` is the caller's, one per thread.
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

// Null where this build has none for this kind of machine.
const Kernels* avx512_kernels();
const Kernels* avx2_kernels();
const Kernels* baseline_kernels();

}  // namespace mmsparx
