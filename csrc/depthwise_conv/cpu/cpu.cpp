// The CPU backend: from tensors to planes on torch's threads.

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <tuple>

#include "../../common/cpu/instruction_sets.h"
#include "../../common/cpu/parallel.h"
#include "../../common/tensors.h"
#include "kernels.h"

namespace mmsparx::depthwise {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

const Kernels& kernels() { return in_use(avx512_kernels(), avx2_kernels(), baseline_kernels()); }

Activation activation_of(const std::string& name) {
  if (name == "none") return Activation::kNone;
  if (name == "gelu") return Activation::kGelu;
  TORCH_CHECK(name == "silu", "depthwise_conv2d: expected the activation none, gelu or silu, got ", name);
  return Activation::kSilu;
}

Planes planes(const Tensor& x) { return {x.const_data_ptr(), x.stride(0), x.stride(1)}; }

// The arguments as kernels take them, which are valid as long as this is.
struct Arguments {
  Arguments(const Tensor& given, const Tensor& given_weight, const OptionalTensor& given_bias, bool residual,
            const std::string& activation) {
    TORCH_CHECK(given.dim() == 4, "depthwise_conv2d: expected x of shape (batch, channels, H, W), got ", given.sizes());
    const int64_t channels = given.size(1);
    const int64_t side = given_weight.dim() == 4 ? given_weight.size(3) : 0;
    TORCH_CHECK((side == 3 || side == 5) && given_weight.sizes() == at::IntArrayRef({channels, 1, side, side}),
                "depthwise_conv2d: expected weight of shape (", channels, ", 1, 3, 3) or (", channels,
                ", 1, 5, 5) beside x of shape ", given.sizes(), ", got ", given_weight.sizes());
    TORCH_CHECK(!given_bias || given_bias->sizes() == at::IntArrayRef({channels}),
                "depthwise_conv2d: expected bias of shape (", channels, "), got ", given_bias->sizes());
    in.type = type_of("depthwise_conv2d", "x", given);
    const auto exact = state_type(given);
    x = with_contiguous_maps(given);
    weight = given_weight.to(exact).contiguous();
    if (given_bias) bias = given_bias->to(exact).contiguous();
    for (const Tensor& other : {weight, given_bias ? bias : weight}) {
      TORCH_CHECK(other.device() == x.device(), "depthwise_conv2d: expected weight and bias on x's device ", x.device(),
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

// run(begin, end, scratch) over all planes.
template <typename Run>
void over_planes(const Inputs& in, const Run& run) {
  if (in.height * in.width == 0) return;
  const int64_t scratch_bytes = kernels().scratch_bytes(in);
  in_parallel(in.planes(), in.height * in.width, [&](int64_t begin, int64_t end) {
    run(begin, end, ThreadScratch(scratch_bytes).get());
  });
}

Tensor forward(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, bool residual,
               const std::string& activation) {
  const Arguments arguments(x, weight, bias, residual, activation);
  Tensor out = at::empty(x.sizes(), x.options());
  const Forward f{arguments.in, out.mutable_data_ptr()};
  const Kernels& isa = kernels();
  over_planes(f.inputs, [&](int64_t begin, int64_t end, void* scratch) { isa.forward(f, begin, end, scratch); });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& given_grad, const Tensor& x, const Tensor& weight,
                                            const OptionalTensor& bias, bool residual, const std::string& activation) {
  const Arguments arguments(x, weight, bias, residual, activation);
  const Inputs& in = arguments.in;
  TORCH_CHECK(given_grad.sizes() == x.sizes() && given_grad.scalar_type() == x.scalar_type(),
              "depthwise_conv2d: expected grad of x's shape ", x.sizes(), " and type ", x.scalar_type(), ", got ",
              given_grad.sizes(), " and ", given_grad.scalar_type());
  const Tensor grad = with_contiguous_maps(given_grad);
  Tensor dx = at::empty(x.sizes(), x.options());
  const auto sums = arguments.weight.options().dtype(at::kDouble);
  // Zeros, since there may be no plane, or planes without a pixel.
  Tensor dweight = at::zeros({in.batch, in.channels, 1, in.side, in.side}, sums);
  Tensor dbias = at::zeros({in.batch, in.channels}, sums);
  const Backward b{in, planes(grad), dx.mutable_data_ptr(), dweight.mutable_data_ptr<double>(),
                   dbias.mutable_data_ptr<double>()};
  const Kernels& isa = kernels();
  over_planes(in, [&](int64_t begin, int64_t end, void* scratch) { isa.backward(b, begin, end, scratch); });
  return {dx, sum_over_batch(dweight, arguments.weight).to(weight.scalar_type()),
          bias ? sum_over_batch(dbias, arguments.weight).to(bias->scalar_type()) : at::empty({0}, weight.options())};
}

}  // namespace

TORCH_LIBRARY_IMPL(mmsparx, CPU, m) {
  m.impl("depthwise_conv2d_native", forward);
  m.impl("depthwise_conv2d_bwd_native", backward);
}

}  // namespace mmsparx::depthwise
