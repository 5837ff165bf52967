// The CPU backend: runs the kernels on the tensors' units of work, on torch's threads.

#include "../../common/cpu/instruction_sets.h"
#include "../../common/cpu/parallel.h"
#include "../run.h"
#include "kernels.h"

namespace mmsparx {
namespace {

// Type of sums over positions, which are added over the batch in order.
constexpr ScalarType kSums = ScalarType::Double;

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

// The small inputs of a cross scan have x's type, and are converted as a whole, since every channel reads them.
CrossTensors cross_tensors(const Tensor& x, const Tensor& step, const Tensor& weight, const Tensor& A, const Tensor& B,
                       const Tensor& C, const OptionalTensor& D, const OptionalTensor& delta_bias) {
  for (const Tensor& small : {step, weight, B, C}) {
    MMSPARX_CHECK(scalar_type_of(small) == scalar_type_of(x), "selective_scan: expected step, weight, B and C in ",
                  scalar_type_of(x), " beside x, got ", scalar_type_of(small));
  }
  const auto exact = state_type(x);
  return {{x, {}, A, as_type(B, exact), as_type(C, exact), D, delta_bias},
          as_type(step, exact),
          as_type(weight, exact)};
}

std::tuple<Tensor, Tensor> cross_forward(const Tensor& x, const Tensor& step, const Tensor& weight, const Tensor& A,
                                       const Tensor& B, const Tensor& C, const OptionalTensor& D,
                                       const OptionalTensor& delta_bias, bool delta_softplus) {
  CrossTensors tensors = cross_tensors(x, step, weight, A, B, C, D, delta_bias);
  CrossForward f{};
  f.inputs = checked_inputs(tensors, delta_softplus, f.cross);
  const Inputs& in = f.inputs;
  Tensor out = make_empty(x.sizes(), x);
  Tensor states = make_empty({in.batch, in.dim, state_count(in.length), in.states}, A);
  f.out = out.mutable_data_ptr();
  f.states = states.mutable_data_ptr();

  const Kernels& isa = kernels();
  const int64_t scratch_bytes = isa.cross_scratch_bytes(in);
  in_parallel(in.batch * cross_forward_blocks(in), kDirections * kAbreast * in.length * in.states,
              [&](int64_t begin, int64_t end) {
                isa.cross_forward(f, begin, end, ThreadScratch(scratch_bytes).get());
              });
  return {out, states};
}

using CrossGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

CrossGradients cross_backward(const Tensor& grad, const Tensor& x, const Tensor& step, const Tensor& weight,
                          const Tensor& A, const Tensor& B, const Tensor& C, const OptionalTensor& D,
                          const OptionalTensor& delta_bias, const Tensor& states, bool delta_softplus) {
  CrossTensors tensors = cross_tensors(x, step, weight, A, B, C, D, delta_bias);
  CrossBackward b{};
  b.inputs = checked_inputs(tensors, delta_softplus, b.cross);
  const Inputs& in = b.inputs;
  const int64_t rank = b.cross.rank;
  Tensor grad_rows = grad;
  b.grad = checked_grad(grad_rows, x);
  check_states(states, in.dim, in.length, in.states, x);
  b.states = states.const_data_ptr();
  b.blocks = cross_backward_blocks(in);
  b.positions = in.length;

  Tensor dx = make_empty(x.sizes(), x);
  Tensor dstep = make_empty(step.sizes(), A), dB = make_empty(B.sizes(), A), dC = make_empty(B.sizes(), A);
  Tensor dstep_partial = make_empty({in.batch, kDirections, b.blocks, rank, in.length}, A);
  Tensor dB_partial = make_empty({in.batch, kDirections, b.blocks, in.states, in.length}, A);
  Tensor dC_partial = make_empty(dB_partial.sizes(), A);
  Tensor dweight = make_empty({in.batch, in.dim, rank}, A, kSums),
         dA = make_empty({in.batch, in.dim, in.states}, A, kSums);
  Tensor dD = make_empty({in.batch, in.dim}, A, kSums), dbias = make_empty({in.batch, in.dim}, A, kSums);
  b.du = dx.mutable_data_ptr();
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
  const int64_t scratch_bytes = isa.cross_scratch_bytes(in);
  in_parallel(in.batch * b.blocks, kDirections * kCrossRows * in.length * in.states, [&](int64_t begin, int64_t end) {
    isa.cross_backward(b, begin, end, ThreadScratch(scratch_bytes).get());
  });
  in_parallel(in.batch * kDirections, b.blocks * (rank + 2 * in.states) * in.length,
              [&](int64_t begin, int64_t end) { isa.cross_add_partials(b, begin, end); });
  const auto type = scalar_type_of(x);
  const auto sum_if = [&](bool present, const Tensor& partial) {
    return present ? sum_over_batch(partial, A) : make_empty({0}, A);
  };
  return {dx,
          as_type(dstep, type),
          as_type(sum_over_batch(dweight, A), type),
          sum_over_batch(dA, A),
          as_type(dB, type),
          as_type(dC, type),
          sum_if(D.has_value(), dD),
          sum_if(delta_bias.has_value(), dbias)};
}

}  // namespace

MMSPARX_KERNELS(CPU, m) {
  m.impl("selective_scan_fwd_native", MMSPARX_BOX(forward));
  m.impl("selective_scan_bwd_native", MMSPARX_BOX(backward));
  m.impl("cross_selective_scan_fwd_native", MMSPARX_BOX(cross_forward));
  m.impl("cross_selective_scan_bwd_native", MMSPARX_BOX(cross_backward));
}

}  // namespace mmsparx
