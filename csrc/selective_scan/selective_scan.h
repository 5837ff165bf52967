// The contract of the native selective scan: the inputs and outputs of its kernels.
//
// This header does not use torch: kernels include only it, and checks.cpp and run.h fill the structs in from tensors.
// mmsparx/ops/selective_scan/interface.py documents the computation, and reference.py beside it the saved states, which
// all backends share.

#pragma once

#include <cstdint>

#include "../common/types.h"

namespace mmsparx {

// Number of positions between two saved states: CHUNK of reference.py.
constexpr int64_t kChunk = 64;

// Returns the number of saved states of a sequence: entry c enters chunk c, entry 0 is h_0 = 0, the last one is the
// final state.
constexpr int64_t state_count(int64_t length) { return 1 + (length + kChunk - 1) / kChunk; }

// A (batch, dim, L) tensor with any strides but the last, which is 1. Strides are in elements.
struct Rows {
  const void* data;
  int64_t batch_stride;
  int64_t row_stride;
};

// A (batch, groups, states, L) tensor with any strides but the last, which is 1.
struct Matrices {
  const void* data;
  int64_t batch_stride;
  int64_t group_stride;
  int64_t state_stride;
};

struct Inputs {
  Type type;  // of u, delta, B, C, out and their gradients; the state, A, D and delta_bias are float or double
  int64_t batch, dim, length, groups, states;
  Rows u, delta;
  const void* A;  // (dim, states), contiguous, of the state's type, as are D and delta_bias
  Matrices B, C;
  const void* D;           // (dim,) or null
  const void* delta_bias;  // (dim,) or null
  bool delta_softplus;

  constexpr int64_t group_dim() const { return dim / groups; }
};

// Outputs are contiguous and need not be initialised.
struct Forward {
  Inputs inputs;
  void* out;     // (batch, dim, length)
  void* states;  // (batch, dim, state_count, states), of the state's type
};

struct Backward {
  Inputs inputs;
  Rows grad;           // of out
  const void* states;  // saved by a forward
  void* du;            // (batch, dim, length)
  void* ddelta;        // (batch, dim, length)
  void* dB;            // (batch, groups, states, length)
  void* dC;            // (batch, groups, states, length)
  // Sums over many elements are made of partial sums that are added in a fixed order, whatever the number of threads,
  // so that results are reproducible bit by bit.
  int64_t blocks;      // number of blocks of rows in a group
  int64_t positions;   // of partial sums: `length`, or those of a part; later parts are differentiated first
  void* dB_partial;    // (batch, groups, blocks, states, positions), of the state's type
  void* dC_partial;    // same shape and type
  void* leaving;       // (batch, dim, states): the state's gradient between parts, in its type; null for one part
  double* dA_partial;     // (batch, dim, states)
  double* dD_partial;     // (batch, dim)
  double* dbias_partial;  // (batch, dim)
};

// The cross scan: the scan of a map (batch, channels, height, width) along the four directions of SS2D, whose outputs
// are summed. Directions 0 and 1 go row by row and column by column, and 2 and 3 are the same two in reverse.
//
// It is a scan of dim = 4 * channels rows in 4 groups: direction k is group k, and the tensors of a sequence are in the
// order of its direction. Only u, out and their gradients are maps: (batch, channels, height * width).
constexpr int kDirections = 4;

// The size of the map, and the product that gives delta: weight times step, within each direction.
//
// The CPU kernels compute the product, channel by channel. They take step and weight, and these, B, C and their
// gradients have the state's type; delta and ddelta are null. The GPU kernels take delta and return ddelta, and B and C
// have u's type; step, weight and their gradients are null.
struct CrossInputs {
  int64_t height, width, rank;
  Matrices step;       // (batch, 4, rank, length)
  const void* weight;  // (dim, rank)
};

struct CrossForward : Forward {
  CrossInputs cross;
};

struct CrossBackward : Backward {
  CrossInputs cross;
  void* dstep;              // (batch, 4, rank, length)
  void* dstep_partial;      // (batch, 4, blocks, rank, length)
  double* dweight_partial;  // (batch, dim, rank)
};

}  // namespace mmsparx
