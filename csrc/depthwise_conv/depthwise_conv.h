// The contract of the native depthwise convolution: the inputs and outputs of its kernels.
//
// This header does not use torch: kernels include only it, and cpu.cpp fills the structs in from tensors.
// mmsparx/ops/depthwise_conv/interface.py documents the computation.

#pragma once

#include <cstdint>

#include "../common/types.h"

namespace mmsparx::depthwise {

enum class Activation { kNone, kGelu, kSilu };

// A (batch, channels, height, width) tensor whose planes are contiguous. Strides are in elements.
struct Planes {
  const void* data;
  int64_t batch_stride;
  int64_t channel_stride;
};

struct Inputs {
  Type type;  // of x, out and their gradients
  int64_t batch, channels, height, width;
  int side;  // of the window: 3 or 5
  bool residual;
  Activation activation;
  Planes x;
  const void* weight;  // (channels, side, side), of the type of the arithmetic, as is bias
  const void* bias;    // (channels,) or null

  constexpr int64_t planes() const { return batch * channels; }
};

// Outputs are contiguous and need not be initialised.
struct Forward {
  Inputs inputs;
  void* out;  // (batch, channels, height, width)
};

struct Backward {
  Inputs inputs;
  Planes grad;  // of out
  void* dx;     // (batch, channels, height, width)
  // Sums of every plane. They are added over the batch in a fixed order, whatever the number of threads, so that
  // results are reproducible bit by bit.
  double* dweight_partial;  // (batch, channels, side, side)
  double* dbias_partial;    // (batch, channels)
};

}  // namespace mmsparx::depthwise
