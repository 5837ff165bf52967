// The GPU backend, from tensors to kernels, without the parts that need a GPU: its guard and its streams.

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

auto sum_over_batch_as(const Tensor& like) {
  return [type = like.scalar_type()](const Tensor& partial) { return at::sum(partial, 0).to(type); };
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
  run.allocate(kernels.backward_blocks(in), kernels.backward_positions(in));
  kernels.backward(run.kernels, stream);
  return run.gradients(sum_over_batch_as(A));
}

// In the cross scan, x is (batch, channels, H, W), and delta (batch, 4 * channels, H * W).

// Allocates `maps` maps for every map of x.
Tensor working_maps(const Tensor& x, int64_t maps) {
  return at::empty({x.size(0), maps, x.size(1), x.size(2) * x.size(3)}, x.options());
}

std::tuple<Tensor, Tensor> cross_forward_on(void* stream, const Tensor& x, const Tensor& delta, const Tensor& A,
                                          const Tensor& B, const Tensor& C, const OptionalTensor& D,
                                          const OptionalTensor& delta_bias, bool delta_softplus) {
  const ForwardRun run(x, delta, A, B, C, D, delta_bias, delta_softplus, Scanned::kMap);
  const Inputs& in = run.kernels.inputs;
  check_sizes(in);
  const GpuKernels kernels = gpu_kernels(in.type);
  CrossMemory memory{};
  Tensor columns, lines;
  if (const int64_t number = kernels.cross_forward_lines(in)) {
    columns = working_maps(x, 1);
    lines = working_maps(x, number);
    memory.columns = columns.mutable_data_ptr();
    memory.lines = lines.mutable_data_ptr();
  }
  kernels.cross_forward({run.kernels, size_of_map(x)}, memory, stream);
  return {run.out, run.states};
}

Gradients cross_backward_on(void* stream, const Tensor& grad, const Tensor& x, const Tensor& delta, const Tensor& A,
                          const Tensor& B, const Tensor& C, const OptionalTensor& D, const OptionalTensor& delta_bias,
                          const Tensor& states, bool delta_softplus) {
  BackwardRun run(grad, x, delta, A, B, C, D, delta_bias, states, delta_softplus, Scanned::kMap);
  const Inputs& in = run.kernels.inputs;
  check_sizes(in);
  const GpuKernels kernels = gpu_kernels(in.type);
  run.allocate(kernels.backward_blocks(in), kernels.backward_positions(in));
  const Tensor columns = working_maps(x, 1), grad_columns = working_maps(x, 1);
  const Tensor lines = working_maps(x, kDirections);
  CrossMemory memory{columns.mutable_data_ptr(), grad_columns.mutable_data_ptr(), lines.mutable_data_ptr()};
  CrossBackward b{run.kernels};
  b.cross = size_of_map(x);
  kernels.cross_backward(b, memory, stream);
  return run.gradients(sum_over_batch_as(A));
}

// Makes an operator of one of these functions. A `Device` is constructed from the first tensor, and has its stream and
// a check after the launch.
template <typename Device, auto run>
struct Operator;
template <typename Device, typename Result, typename... Rest, Result (*run)(void*, const Tensor&, Rest...)>
struct Operator<Device, run> {
  static Result call(const Tensor& first, Rest... rest) {
    const Device device(first);
    Result result = run(device.stream(), first, rest...);
    device.check();
    return result;
  }
};

}  // namespace
}  // namespace mmsparx
