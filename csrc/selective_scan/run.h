// A call of a scan: converts tensors to the kernels' structs, and results back to tensors.

#pragma once

#include <tuple>

#include "checks.h"

namespace mmsparx {

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// `kernels` is complete after construction, and valid as long as this object lives.
class ForwardRun {
 public:
  ForwardRun(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
             const OptionalTensor& D, const OptionalTensor& delta_bias, bool delta_softplus,
             Scanned scanned = Scanned::kSequences)
      : tensors_{u, delta, A, B, C, D, delta_bias} {
    kernels.inputs = checked_inputs(tensors_, delta_softplus, scanned);
    const Inputs& in = kernels.inputs;
    out = make_empty(u.sizes(), u);
    states = make_empty({in.batch, in.dim, state_count(in.length), in.states}, A);
    kernels.out = out.mutable_data_ptr();
    kernels.states = states.mutable_data_ptr();
  }
  ForwardRun(const ForwardRun&) = delete;

  Forward kernels{};
  Tensor out, states;

 private:
  Tensors tensors_;
};

class BackwardRun {
 public:
  BackwardRun(const Tensor& grad, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
              const Tensor& C, const OptionalTensor& D, const OptionalTensor& delta_bias, const Tensor& states,
              bool delta_softplus, Scanned scanned = Scanned::kSequences)
      : tensors_{u, delta, A, B, C, D, delta_bias}, grad_(grad), states_(states) {
    kernels.inputs = checked_inputs(tensors_, delta_softplus, scanned);
    const Inputs& in = kernels.inputs;
    kernels.grad = checked_grad(grad_, u);
    check_states(states_, in.dim, in.length, in.states, u);
    kernels.states = states_.const_data_ptr();
  }
  BackwardRun(const BackwardRun&) = delete;

  // Completes `kernels`. `positions` is that of Backward, by default all.
  void allocate(int64_t blocks) { allocate(blocks, kernels.inputs.length); }
  void allocate(int64_t blocks, int64_t positions) {
    const Inputs& in = kernels.inputs;
    const Tensor& exact = tensors_.A;
    du_ = make_empty(tensors_.u.sizes(), tensors_.u);
    ddelta_ = make_empty(tensors_.delta.sizes(), tensors_.u);
    dB_ = make_empty(tensors_.B.sizes(), tensors_.u);
    dC_ = make_empty(tensors_.B.sizes(), tensors_.u);
    dB_partial_ = make_empty({in.batch, in.groups, blocks, in.states, positions}, exact);
    dC_partial_ = make_empty(dB_partial_.sizes(), exact);
    if (positions < in.length) leaving_ = make_empty({in.batch, in.dim, in.states}, exact);
    dA_partial_ = make_empty({in.batch, in.dim, in.states}, exact, ScalarType::Double);
    dD_partial_ = make_empty({in.batch, in.dim}, exact, ScalarType::Double);
    dbias_partial_ = make_empty({in.batch, in.dim}, exact, ScalarType::Double);
    kernels.blocks = blocks;
    kernels.positions = positions;
    kernels.leaving = leaving_.defined() ? leaving_.mutable_data_ptr() : nullptr;
    kernels.du = du_.mutable_data_ptr();
    kernels.ddelta = ddelta_.mutable_data_ptr();
    kernels.dB = dB_.mutable_data_ptr();
    kernels.dC = dC_.mutable_data_ptr();
    kernels.dB_partial = dB_partial_.mutable_data_ptr();
    kernels.dC_partial = dC_partial_.mutable_data_ptr();
    kernels.dA_partial = dA_partial_.mutable_data_ptr<double>();
    kernels.dD_partial = dD_partial_.mutable_data_ptr<double>();
    kernels.dbias_partial = dbias_partial_.mutable_data_ptr<double>();
  }

  // Returns the gradients. sum_over_batch(partial) sums doubles (batch, ...) to (...) in A's type. The gradient of an
  // absent input is empty.
  template <typename Sum>
  Gradients gradients(const Sum& sum_over_batch) const {
    const auto sum_if = [&](bool present, const Tensor& partial) {
      return present ? sum_over_batch(partial) : make_empty({0}, tensors_.A);
    };
    return {du_, ddelta_, sum_over_batch(dA_partial_), dB_, dC_, sum_if(tensors_.D.has_value(), dD_partial_),
            sum_if(tensors_.delta_bias.has_value(), dbias_partial_)};
  }

  Backward kernels{};

 private:
  Tensors tensors_;
  Tensor grad_, states_;
  Tensor du_, ddelta_, dB_, dC_, dB_partial_, dC_partial_, leaving_, dA_partial_, dD_partial_, dbias_partial_;
};

}  // namespace mmsparx
