// The GPU backend, binding apart, compiled for the CPU as the operators of mmsparx_emulated.

#define MMSPARX_EMULATED
#include "emulator.h"
//
#include <torch/library.h>

#include "cuda/ops.h"
//
#include "checks.cpp"
#include "cuda/kernels_bfloat16.cu"
#include "cuda/kernels_double.cu"
#include "cuda/kernels_float.cu"
#include "cuda/kernels_half.cu"

namespace mmsparx {
namespace {

std::tuple<Tensor, Tensor> forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                                   const Tensor& C, const OptionalTensor& D, const OptionalTensor& delta_bias,
                                   bool delta_softplus) {
  return forward_on(nullptr, u, delta, A, B, C, D, delta_bias, delta_softplus);
}

Gradients backward(const Tensor& grad, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                   const Tensor& C, const OptionalTensor& D, const OptionalTensor& delta_bias, const Tensor& states,
                   bool delta_softplus) {
  return backward_on(nullptr, grad, u, delta, A, B, C, D, delta_bias, states, delta_softplus);
}

}  // namespace

TORCH_LIBRARY(mmsparx_emulated, m) {
  m.def(
      "forward(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, "
      "bool delta_softplus) -> (Tensor, Tensor)",
      forward);
  m.def(
      "backward(Tensor grad, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, "
      "Tensor states, bool delta_softplus) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      backward);
}

}  // namespace mmsparx
