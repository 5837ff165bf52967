// The contract of the native selective scan: what its kernels are given and what they leave behind.
//
// No torch here: kernels include this file alone, and selective_scan.cpp fills it in from tensors.
// What is computed is written in mmsparx/ops/selective_scan/interface.py, and the saved states, which
// every backend shares, in reference.py beside it.

#pragma once

#include <cstdint>

#include "../common/types.h"

namespace mmsparx {

// Positions between two saved states: reference.py's CHUNK.
constexpr int64_t kChunk = 64;

// Saved states of a sequence: entry c enters chunk c, entry 0 is h_0 = 0, the last is the final state.
constexpr int64_t state_count(int64_t length) { return 1 + (length + kChunk - 1) / kChunk; }

// A (batch, dim, L) tensor, of any strides but the last, which is 1. Strides are in elements.
struct Rows {
  const void* data;
  int64_t batch_stride;
  int64_t row_stride;
};

// A (batch, groups, states, L) tensor, of any strides but the last, which is 1.
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
  const void* A;  // (dim, states), contiguous, of the state's type like the next two
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
  const void* states;  // what a forward saved
  void* du;            // (batch, dim, length)
  void* ddelta;        // (batch, dim, length)
  void* dB;            // (batch, groups, states, length)
  void* dC;            // (batch, groups, states, length)
  // Sums over many elements are made of partial ones that are added in one order whatever the number
  // of threads, so that results repeat bit by bit.
  int64_t blocks;      // of rows in a group
  int64_t positions;   // of partial sums: `length`, or those of a part of it, which is differentiated after the later
  void* dB_partial;    // (batch, groups, blocks, states, positions), of the state's type
  void* dC_partial;    // the same
  void* leaving;       // (batch, dim, states), of the state's type: its gradient between parts; null for one part
  double* dA_partial;     // (batch, dim, states)
  double* dD_partial;     // (batch, dim)
  double* dbias_partial;  // (batch, dim)
};

// The cross scan: that of a map (batch, channels, height, width) along the four directions of SS2D, whose outputs are
// summed. Directions 0 and 1 go row by row and column by column, and 2 and 3 are the two in reverse.
//
// It is a scan of dim = 4 * channels rows in 4 groups: direction k is group k, and what belongs to its sequence is in
// its order. u, out and their gradients alone are the map: (batch, channels, height * width).
constexpr int kDirections = 4;

// The size of the map, and the product that makes delta: weight times step, within each direction.
//
// The CPU kernels form the product, channel by channel. They are given step and weight, and these, B, C and their
// gradients are of the state's type; delta and ddelta are null. The GPU kernels are given delta and return ddelta, and
// B and C are of u's type; step, weight and their gradients are null.
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
