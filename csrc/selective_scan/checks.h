// What every native backend asks of its tensors. The texts are those of interface.py, which asks first;
// these protect memory where the operators are called without it.

#pragma once

#include "../common/tensors.h"
#include "selective_scan.h"

namespace mmsparx {

struct Tensors {
  Tensor u, delta, A, B, C;
  OptionalTensor D, delta_bias;
};

// What u is: (batch, dim, L), or a map (batch, channels, H, W) and the rest that of its 4 * channels rows.
enum class Scanned { kSequences, kMap };

// Those of a cross scan whose kernels make delta, which is undefined here: all but u of the state's type.
struct CrossTensors : Tensors {
  Tensor step, weight;
};

// Raise RuntimeError in Python for what does not fit together; otherwise return the sizes and
// where everything lies. The tensors are replaced by copies where a layout would not do, and must be kept
// as long as the result is in use.
Inputs checked_inputs(Tensors& tensors, bool delta_softplus, Scanned scanned = Scanned::kSequences);
Inputs checked_inputs(CrossTensors& tensors, bool delta_softplus, CrossInputs& cross);

// The size of a map that was checked, for kernels that are given delta.
CrossInputs size_of_map(const Tensor& x);

// The gradient of out, which has u's shape, and the states a forward saved for `dim` rows.
Rows checked_grad(Tensor& grad, const Tensor& u);
void check_states(const Tensor& states, int64_t dim, int64_t length, int64_t state_size, const Tensor& u);

}  // namespace mmsparx
