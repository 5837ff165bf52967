// Checks of the tensors for all native backends. The messages are those of interface.py, which checks first; these
// checks protect memory if the operators are called without it.

#pragma once

#include "../common/tensors.h"
#include "selective_scan.h"

namespace mmsparx {

struct Tensors {
  Tensor u, delta, A, B, C;
  OptionalTensor D, delta_bias;
};

// The form of u: (batch, dim, L), or a map (batch, channels, H, W), with the other tensors for its 4 * channels rows.
enum class Scanned { kSequences, kMap };

// The tensors of a cross scan whose kernels compute delta, which is undefined here. All but u have the state's type.
struct CrossTensors : Tensors {
  Tensor step, weight;
};

// Raise a RuntimeError in Python if the tensors do not match; otherwise return sizes and addresses. Tensors with an
// unsuitable layout are replaced by copies. The tensors must be kept as long as the result is in use.
Inputs checked_inputs(Tensors& tensors, bool delta_softplus, Scanned scanned = Scanned::kSequences);
Inputs checked_inputs(CrossTensors& tensors, bool delta_softplus, CrossInputs& cross);

// Returns the size of a checked map, for kernels that take delta.
CrossInputs size_of_map(const Tensor& x);

// Check the gradient of out, which has u's shape, and the states that a forward saved for `dim` rows.
Rows checked_grad(Tensor& grad, const Tensor& u);
void check_states(const Tensor& states, int64_t dim, int64_t length, int64_t state_size, const Tensor& u);

}  // namespace mmsparx
