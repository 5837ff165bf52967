// The CPU backend: from tensors to units of work on torch's threads.

#include <torch/library.h>

#include "../../common/cpu/instruction_sets.h"
#include "../../common/cpu/parallel.h"
#include "../run.h"
#include "kernels.h"

namespace mmsparx {
namespace {

const Kernels& kernels() { return in_use(avx512_kernels(), avx2_kernels(), baseline_kernels()); }

std::tuple<Tensor, Tensor> forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                                   const Tensor& C, const OptionalTensor& D, const OptionalTensor& delta_bias,
                                   bool delta_softplus) {
  const ForwardRun run(u, delta, A, B, C, D, delta_bias, delta_softplus);
  const Inputs& in = run.kernels.inputs;
  const Kernels& isa = kernels();
  const int64_t scratch_bytes = isa.scratch_bytes(in);
  const int64_t units = in.batch * in.groups * forward_blocks(in);
  in_parallel(units, kForwardRows * in.length * in.states, [&](int64_t begin, int64_t end) {
    isa.forward(run.kernels, begin, end, ThreadScratch(scratch_bytes).get());
  });
  return {run.out, run.states};
}

Gradients backward(const Tensor& grad, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                   const Tensor& C, const OptionalTensor& D, const OptionalTensor& delta_bias, const Tensor& states,
                   bool delta_softplus) {
  BackwardRun run(grad, u, delta, A, B, C, D, delta_bias, states, delta_softplus);
  const Backward& b = run.kernels;
  const Inputs& in = b.inputs;
  run.allocate(backward_blocks(in));
  const Kernels& isa = kernels();
  const int64_t scratch_bytes = isa.scratch_bytes(in);
  const int64_t units = in.batch * in.groups * b.blocks;
  in_parallel(units, kBackwardRows * in.length * in.states, [&](int64_t begin, int64_t end) {
    isa.backward(b, begin, end, ThreadScratch(scratch_bytes).get());
  });
  in_parallel(in.batch * in.groups, b.blocks * in.states * in.length,
              [&](int64_t begin, int64_t end) { isa.add_partials(b, begin, end); });
  return run.gradients([&](const Tensor& partial) { return sum_over_batch(partial, A); });
}

// A map's small inputs come in x's type and are converted as a whole: every channel reads them.
MapTensors map_tensors(const Tensor& x, const Tensor& step, const Tensor& weight, const Tensor& A, const Tensor& B,
                       const Tensor& C, const OptionalTensor& D, const OptionalTensor& delta_bias) {
  for (const Tensor& small : {step, weight, B, C}) {
    TORCH_CHECK(small.scalar_type() == x.scalar_type(), "selective_scan: expected step, weight, B and C in ",
                x.scalar_type(), " beside x, got ", small.scalar_type());
  }
  const auto exact = state_type(x);
  return {x, step.to(exact), weight.to(exact), A, B.to(exact), C.to(exact), D, delta_bias};
}

std::tuple<Tensor, Tensor> map_forward(const Tensor& x, const Tensor& step, const Tensor& weight, const Tensor& A,
                                       const Tensor& B, const Tensor& C, const OptionalTensor& D,
                                       const OptionalTensor& delta_bias, bool delta_softplus) {
  MapTensors tensors = map_tensors(x, step, weight, A, B, C, D, delta_bias);
  MapForward f{};
  f.inputs = checked_inputs(tensors, delta_softplus);
  const MapInputs& in = f.inputs;
  Tensor out = at::empty(x.sizes(), x.options());
  Tensor states = at::empty({in.batch, 4 * in.channels, state_count(in.length()), in.states}, A.options());
  f.out = out.mutable_data_ptr();
  f.states = states.mutable_data_ptr();

  const Kernels& isa = kernels();
  const int64_t scratch_bytes = isa.map_scratch_bytes(in);
  in_parallel(in.batch * map_forward_blocks(in), 4 * kAbreast * in.length() * in.states, [&](int64_t begin, int64_t end) {
    isa.map_forward(f, begin, end, ThreadScratch(scratch_bytes).get());
  });
  return {out, states};
}

using MapGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

MapGradients map_backward(const Tensor& grad, const Tensor& x, const Tensor& step, const Tensor& weight,
                          const Tensor& A, const Tensor& B, const Tensor& C, const OptionalTensor& D,
                          const OptionalTensor& delta_bias, const Tensor& states, bool delta_softplus) {
  MapTensors tensors = map_tensors(x, step, weight, A, B, C, D, delta_bias);
  MapBackward b{};
  b.inputs = checked_inputs(tensors, delta_softplus);
  const MapInputs& in = b.inputs;
  const int64_t rows = 4 * in.channels;
  Tensor grad_rows = grad;
  b.grad = checked_grad(grad_rows, x);
  check_states(states, rows, in.length(), in.states, x);
  b.states = states.const_data_ptr();
  b.blocks = map_backward_blocks(in);

  const auto exact = A.options(), sums = exact.dtype(at::kDouble);
  Tensor dx = at::empty(x.sizes(), x.options());
  Tensor dstep = at::empty(step.sizes(), exact), dB = at::empty(B.sizes(), exact), dC = at::empty_like(dB);
  Tensor dstep_partial = at::empty({in.batch, 4, b.blocks, in.rank, in.length()}, exact);
  Tensor dB_partial = at::empty({in.batch, 4, b.blocks, in.states, in.length()}, exact);
  Tensor dC_partial = at::empty_like(dB_partial);
  Tensor dweight = at::empty({in.batch, rows, in.rank}, sums), dA = at::empty({in.batch, rows, in.states}, sums);
  Tensor dD = at::empty({in.batch, rows}, sums), dbias = at::empty_like(dD);
  b.dx = dx.mutable_data_ptr();
  b.dstep = dstep.mutable_data_ptr();
  b.dB = dB.mutable_data_ptr();
  b.dC = dC.mutable_data_ptr();
  b.dstep_partial = dstep_partial.mutable_data_ptr();
  b.dB_partial = dB_partial.mutable_data_ptr();
  b.dC_partial = dC_partial.mutable_data_ptr();
  b.dweight_partial = dweight.mutable_data_ptr<double>();
  b.dA_partial = dA.mutable_data_ptr<double>();
  b.dD_partial = dD.mutable_data_ptr<double>();
  b.dbias_partial = dbias.mutable_data_ptr<double>();

  const Kernels& isa = kernels();
  const int64_t scratch_bytes = isa.map_scratch_bytes(in);
  in_parallel(in.batch * b.blocks, 4 * kMapRows * in.length() * in.states, [&](int64_t begin, int64_t end) {
    isa.map_backward(b, begin, end, ThreadScratch(scratch_bytes).get());
  });
  in_parallel(in.batch * 4, b.blocks * (in.rank + 2 * in.states) * in.length(),
              [&](int64_t begin, int64_t end) { isa.map_add_partials(b, begin, end); });
  const auto type = x.scalar_type();
  const auto sum_if = [&](bool present, const Tensor& partial) {
    return present ? sum_over_batch(partial, A) : at::empty({0}, exact);
  };
  return {dx,
          dstep.to(type),
          sum_over_batch(dweight, A).to(type),
          sum_over_batch(dA, A),
          dB.to(type),
          dC.to(type),
          sum_if(D.has_value(), dD),
          sum_if(delta_bias.has_value(), dbias)};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmsparx, CPU, m) {
  m.impl("selective_scan_fwd_native", forward);
  m.impl("selective_scan_bwd_native", backward);
  m.impl("cross_selective_scan_fwd_native", map_forward);
  m.impl("cross_selective_scan_bwd_native", map_backward);
}

}  // namespace mmsparx
