// The contract of the native norm of whole maps: what its kernels are given and what they leave behind.
//
// No torch here: kernels include this file alone, and cpu.cpp fills it in from tensors. What is computed is written in
// mmsparx/ops/map_norm/interface.py.

#pragma once

#include <cstdint>

#include "../common/types.h"

namespace mmsparx::map_norm {

// Numbers of a sample whose mean and squares are summed on their own. Fixed, not derived from the number of threads:
// the sums are part of the result.
constexpr int64_t kPart = 4096;

// All tensors are contiguous; statistics and parameters are of the type of the arithmetic.
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
  double* part_squares;  // (batch, parts): sums of squares of what is left without the part's mean
  const void* mean;      // (batch,), made of the two above before out is written
  const void* rstd;      // (batch,)
  void* out;
};

struct Backward {
  Inputs inputs;
  const void* grad;  // of out
  const void* mean;
  const void* rstd;
  // Of every channel of every sample, sums over positions; added in one order whatever the number of threads.
  double* dweight_partial;  // (batch, channels): of grad times the normalised x
  double* dbias_partial;    // (batch, channels): of grad
  // (batch,): means over the sample of grad times weight, alone and times the normalised x.
  const double* mean_gradient;
  const double* mean_product;
  void* dx;
};

}  // namespace mmsparx::map_norm
