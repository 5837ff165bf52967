// The GPU backend as torch calls it: on the tensors' device and its current stream. Nothing waits for the GPU, so
// that calls can be captured in a CUDA graph.

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "ops.h"

namespace mmsparx {
namespace {

std::tuple<Tensor, Tensor> forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                                   const Tensor& C, const OptionalTensor& D, const OptionalTensor& delta_bias,
                                   bool delta_softplus) {
  const c10::cuda::CUDAGuard guard(u.device());
  auto result = forward_on(c10::cuda::getCurrentCUDAStream(), u, delta, A, B, C, D, delta_bias, delta_softplus);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

Gradients backward(const Tensor& grad, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                   const Tensor& C, const OptionalTensor& D, const OptionalTensor& delta_bias, const Tensor& states,
                   bool delta_softplus) {
  const c10::cuda::CUDAGuard guard(u.device());
  auto result =
      backward_on(c10::cuda::getCurrentCUDAStream(), grad, u, delta, A, B, C, D, delta_bias, states, delta_softplus);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(mmsparx, CUDA, m) {
  m.impl("selective_scan_fwd_native", forward);
  m.impl("selective_scan_bwd_native", backward);
}

}  // namespace mmsparx
