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

// The scan of a map along the four directions of SS2D, whose outputs are summed: row by row, column by column,
// and the two in reverse. Direction k is group k of a scan of 4 * channels rows; what belongs to its sequence
// is in its order. delta is weight (4 * channels, rank) times step, within each direction.
//
// All but x, out and their gradients is of the state's type.
struct MapInputs {
  Type type;  // of x, out and their gradients
  int64_t batch, channels, height, width, states, rank;
  Rows x;         // (batch, channels, height * width)
  Matrices step;  // (batch, 4, rank, length)
  const void* weight;
  const void* A;  // (4 * channels, states)
  Matrices B, C;
  const void* D;           // (4 * channels,) or null
  const void* delta_bias;  // (4 * channels,) or null
  bool delta_softplus;

  constexpr int64_t length() const { return height * width; }
};

struct MapForward {
  MapInputs inputs;
  void* out;     // (batch, channels, height, width)
  void* states;  // (batch, 4 * channels, state_count, states)
};

struct MapBackward {
  MapInputs inputs;
  Rows grad;           // of out
  const void* states;  // what a forward saved
  void* dx;            // (batch, channels, height, width)
  void *dstep, *dB, *dC;  // (batch, 4, rank or states, length)
  // As in Backward.
  int64_t blocks;                                 // of channels
  void *dstep_partial, *dB_partial, *dC_partial;  // (batch, 4, blocks, rank or states, length)
  double* dweight_partial;                        // (batch, 4 * channels, rank)
  double* dA_partial;                             // (batch, 4 * channels, states)
  double* dD_partial;                             // (batch, 4 * channels)
  double* dbias_partial;                          // (batch, 4 * channels)
};

}  // namespace mmsparx
