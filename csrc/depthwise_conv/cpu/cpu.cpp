// The CPU backend: runs the kernels on the planes of tensors, on torch's threads.

#include <string>
#include <tuple>

#include "../../common/cpu/instruction_sets.h"
#include "../../common/cpu/parallel.h"
#include "../../common/tensors.h"
#include "kernels.h"

namespace mmsparx::depthwise {
namespace {

const Kernels& kernels() { return in_use(avx512_kernels(), avx2_kernels(), baseline_kernels()); }

Activation activation_of(const std::string& name) {
  if (name == "none") return Activation::kNone;
  if (name == "gelu") return Activation::kGelu;
  MMSPARX_CHECK(name == "silu", "depthwise_conv2d: expected the activation none, gelu or silu, got ", name);
  return Activation::kSilu;
}

Planes planes(const Tensor& x) { return {x.const_data_ptr(), x.stride(0), x.stride(1)}; }

// The arguments in the form that kernels take. They are valid as long as this object lives.
struct Arguments {
  Arguments(const Tensor& given, const Tensor& given_weight, const OptionalTensor& given_bias, bool residual,
            const std::string& activation) {
    MMSPARX_CHECK(given.dim() == 4, "depthwise_conv2d: expected x of shape (batch, channels, H, W), got ",
                  given.sizes());
    const int64_t channels = given.size(1);
    const int64_t side = given_weight.dim() == 4 ? given_weight.size(3) : 0;
    MMSPARX_CHECK((side == 3 || side == 5) && given_weight.sizes().equals({channels, 1, side, side}),
                  "depthwise_conv2d: expected weight of shape (", channels, ", 1, 3, 3) or (", channels,
                  ", 1, 5, 5) beside x of shape ", given.sizes(), ", got ", given_weight.sizes());
    MMSPARX_CHECK(!given_bias || given_bias->sizes().equals({channels}), "depthwise_conv2d: expected bias of shape (",
                  channels, "), got ", given_bias->sizes());
    in.type = type_of("depthwise_conv2d", "x", given);
    const auto exact = state_type(given);
    x = with_contiguous_maps(given);
    weight = as_contiguous(as_type(given_weight, exact));
    if (given_bias) bias = as_contiguous(as_type(*given_bias, exact));
    for (const Tensor& other : {weight, given_bias ? bias : weight}) {
      MMSPARX_CHECK(on_one_device(other, x), "depthwise_conv2d: expected weight and bias on x's device ", x.device(),
                    ", got ", other.device());
    }
    in.batch = x.size(0);
    in.channels = channels;
    in.height = x.size(2);
    in.width = x.size(3);
    in.side = int(side);
    in.residual = residual;
    in.activation = activation_of(activation);
    in.x = planes(x);
    in.weight = weight.const_data_ptr();
    in.bias = given_bias ? bias.const_data_ptr() : nullptr;
  }
  Arguments(const Arguments&) = delete;

  Inputs in{};
  Tensor x, weight, bias;
};

// Calls run(begin, end, scratch) on ranges that cover all planes.
template <typename Run>
void over_planes(const Inputs& in, const Run& run) {
  if (in.height * in.width == 0) return;
  const int64_t scratch_bytes = kernels().scratch_bytes(in);
  in_parallel(in.planes(), in.height * in.width, [&](int64_t begin, int64_t end) {
    run(begin, end, ThreadScratch(scratch_bytes).get());
  });
}

Tensor forward(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, bool residual, Text activation) {
  const Arguments arguments(x, weight, bias, residual, string_of(activation));
  Tensor out = make_empty(x.sizes(), x);
  const Forward f{arguments.in, out.mutable_data_ptr()};
  const Kernels& isa = kernels();
  over_planes(f.inputs, [&](int64_t begin, int64_t end, void* scratch) { isa.forward(f, begin, end, scratch); });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& given_grad, const Tensor& x, const Tensor& weight,
                                            const OptionalTensor& bias, bool residual, Text activation) {
  const Arguments arguments(x, weight, bias, residual, string_of(activation));
  const Inputs& in = arguments.in;
  MMSPARX_CHECK(given_grad.sizes().equals(x.sizes()) && scalar_type_of(given_grad) == scalar_type_of(x),
                "depthwise_conv2d: expected grad of x's shape ", x.sizes(), " and type ", scalar_type_of(x), ", got ",
                given_grad.sizes(), " and ", scalar_type_of(given_grad));
  const Tensor grad = with_contiguous_maps(given_grad);
  Tensor dx = make_empty(x.sizes(), x);
  // The sums start as zeros, since there may be no plane, or planes without pixels.
  Tensor dweight = make_zeros({in.batch, in.channels, 1, in.side, in.side}, x, ScalarType::Double);
  Tensor dbias = make_zeros({in.batch, in.channels}, x, ScalarType::Double);
  const Backward b{in, planes(grad), dx.mutable_data_ptr(), dweight.mutable_data_ptr<double>(),
                   dbias.mutable_data_ptr<double>()};
  const Kernels& isa = kernels();
  over_planes(in, [&](int64_t begin, int64_t end, void* scratch) { isa.backward(b, begin, end, scratch); });
  return {dx, as_type(sum_over_batch(dweight, arguments.weight), scalar_type_of(weight)),
          bias ? as_type(sum_over_batch(dbias, arguments.weight), scalar_type_of(*bias)) : make_empty({0}, weight)};
}

}  // namespace

MMSPARX_KERNELS(CPU, m) {
  m.impl("depthwise_conv2d_native", MMSPARX_BOX(forward));
  m.impl("depthwise_conv2d_bwd_native", MMSPARX_BOX(backward));
}

}  // namespace mmsparx::depthwise
