// The GPU backend from tensors to kernels, but for what only a GPU has: its guard and its streams.

#pragma once

#include <ATen/ops/sum.h>

#include "../run.h"
#include "kernels.h"

namespace mmsparx {
namespace {

void check_sizes(const Inputs& in) {
  const char* const expected = too_large(in);
  TORCH_CHECK(!expected, "selective_scan: the CUDA kernels take ", expected, ", got ", in.batch, " x ", in.dim,
              " rows of ", in.length, " positions and ", in.states, " states; choose another backend");
}

std::tuple<Tensor, Tensor> forward_on(void* stream, const Tensor& u, const Tensor& delta, const Tensor& A,
                                      const Tensor& B, const Tensor& C, const OptionalTensor& D,
                                      const OptionalTensor& delta_bias, bool delta_softplus) {
  const ForwardRun run(u, delta, A, B, C, D, delta_bias, delta_softplus);
  const Inputs& in = run.kernels.inputs;
  check_sizes(in);
  gpu_kernels(in.type).forward(run.kernels, stream);
  return {run.out, run.states};
}

Gradients backward_on(void* stream, const Tensor& grad, const Tensor& u, const Tensor& delta, const Tensor& A,
                      const Tensor& B, const Tensor& C, const OptionalTensor& D, const OptionalTensor& delta_bias,
                      const Tensor& states, bool delta_softplus) {
  BackwardRun run(grad, u, delta, A, B, C, D, delta_bias, states, delta_softplus);
  const Inputs& in = run.kernels.inputs;
  check_sizes(in);
  const GpuKernels kernels = gpu_kernels(in.type);
  run.allocate(kernels.backward_blocks(in));
  kernels.backward(run.kernels, stream);
  return run.gradients([&](const Tensor& partial) { return at::sum(partial, 0).to(A.scalar_type()); });
}

}  // namespace
}  // namespace mmsparx
