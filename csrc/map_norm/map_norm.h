// The contract of the native norm of whole maps: the inputs and outputs of its kernels.
//
// This header does not use torch: kernels include only it, and cpu.cpp fills the structs in from tensors.
// mmsparx/ops/map_norm/interface.py documents the computation.

#pragma once

#include <cstdint>

#include "../common/types.h"

namespace mmsparx::map_norm {

// Number of elements of a sample whose mean and squares are summed separately. It is fixed, rather than derived from
// the number of threads, because it affects the rounding of the sums.
constexpr int64_t kPart = 4096;

// All tensors are contiguous. Statistics and parameters have the type of the arithmetic.
struct Inputs {
  Type type;  // of x, out and their gradients
  int64_t batch, channels, positions;
  const void* x;       // (batch, channels, positions)
  const void* weight;  // (channels,)
  const void* bias;    // (channels,)

  constexpr int64_t sample() const { return channels * positions; }
  constexpr int64_t parts() const { return (sample() + kPart - 1) / kPart; }
};

struct Forward {
  Inputs inputs;
  double* part_means;    // (batch, parts)
  double* part_squares;  // (batch, parts): sums of squared differences from the part's mean
  const void* mean;      // (batch,), computed from the two above before out is written
  const void* rstd;      // (batch,)
  void* out;
};

struct Backward {
  Inputs inputs;
  const void* grad;  // of out
  const void* mean;
  const void* rstd;
  // Sums over the positions of every channel of every sample. They are added in a fixed order, whatever the number of
  // threads.
  double* dweight_partial;  // (batch, channels): of grad times the normalised x
  double* dbias_partial;    // (batch, channels): of grad
  // (batch,): means over the sample of grad times weight, and of grad times weight times the normalised x.
  const double* mean_gradient;
  const double* mean_product;
  void* dx;
};

}  // namespace mmsparx::map_norm
