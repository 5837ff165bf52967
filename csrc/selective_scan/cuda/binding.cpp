// Registration of the GPU backend with torch. Kernels run on the tensors' device and its current stream, and nothing
// waits for the GPU, so that calls can be captured in a CUDA graph.

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "ops.h"

namespace mmsparx {
namespace {

struct Gpu {
  c10::cuda::OptionalCUDAGuard guard;

  explicit Gpu(const Tensor& on) {
    if (on.is_cuda()) guard.set_device(on.device());  // tensors on other devices fail a later check
  }
  void* stream() const { return c10::cuda::getCurrentCUDAStream(); }
  void check() const { C10_CUDA_KERNEL_LAUNCH_CHECK(); }
};

}  // namespace

TORCH_LIBRARY_IMPL(mmsparx, CUDA, m) {
  m.impl("selective_scan_fwd_native", Operator<Gpu, forward_on>::call);
  m.impl("selective_scan_bwd_native", Operator<Gpu, backward_on>::call);
  m.impl("cross_selective_scan_with_delta_fwd_native", Operator<Gpu, cross_forward_on>::call);
  m.impl("cross_selective_scan_with_delta_bwd_native", Operator<Gpu, cross_backward_on>::call);
}

}  // namespace mmsparx
