// The CPU backend: runs the kernels' passes over the maps of tensors, on torch's threads.

#include <cmath>
#include <tuple>
#include <vector>

#include "../../common/cpu/instruction_sets.h"
#include "../../common/cpu/parallel.h"
#include "../../common/tensors.h"
#include "kernels.h"

namespace mmsparx::map_norm {
namespace {

const Kernels& kernels() { return in_use(avx512_kernels(), avx2_kernels(), baseline_kernels()); }

// The arguments in the form that kernels take. They are valid as long as this object lives.
struct Arguments {
  Arguments(const Tensor& given, const Tensor& given_weight, const Tensor& given_bias) {
    MMSPARX_CHECK(given.dim() >= 2, "map_norm: expected x of shape (batch, channels, ...), got ", given.sizes());
    in.type = type_of("map_norm", "x", given);
    in.batch = given.size(0);
    in.channels = given.size(1);
    in.positions = 1;
    for (int64_t i = 2; i < given.dim(); i++) in.positions *= given.size(i);
    x = as_contiguous(given);
    weight = parameter("weight", given_weight);
    bias = parameter("bias", given_bias);
    in.x = x.const_data_ptr();
    in.weight = weight.const_data_ptr();
    in.bias = bias.const_data_ptr();
  }
  Arguments(const Arguments&) = delete;

  Inputs in{};
  Tensor x, weight, bias;

 private:
  Tensor parameter(const char* name, const Tensor& given) const {
    MMSPARX_CHECK(given.sizes().equals({in.channels}) && on_one_device(given, x), "map_norm: expected ", name,
                  " of shape (", in.channels, ") on x's device, got ", given.sizes(), " on ", given.device());
    return as_contiguous(as_type(given, state_type(x)));
  }
};

// Calls run(begin, end, scratch) on ranges that cover all units.
template <typename Run>
void over(const Inputs& in, int64_t units, int64_t elements_per_unit, const Run& run) {
  if (in.sample() == 0) return;
  const int64_t scratch_bytes = kernels().scratch_bytes(in);
  in_parallel(units, elements_per_unit, [&](int64_t begin, int64_t end) {
    run(begin, end, ThreadScratch(scratch_bytes).get());
  });
}

// Computes the mean and 1 / sqrt(variance + eps) of every sample from those of its parts, which are combined in order.
template <typename T>
void finish_statistics(const Forward& f, double eps, T* mean, T* rstd) {
  const Inputs& in = f.inputs;
  for (int64_t sample = 0; sample < in.batch; sample++) {
    double count = 0, total_mean = 0, squares = 0;
    for (int64_t part = 0; part < in.parts(); part++) {
      const int64_t left = in.sample() - part * kPart;
      const double more = double(left < kPart ? left : kPart), all = count + more;
      const double apart = f.part_means[sample * in.parts() + part] - total_mean;
      total_mean += apart * more / all;
      squares += f.part_squares[sample * in.parts() + part] + apart * apart * count * more / all;
      count = all;
    }
    mean[sample] = T(total_mean);
    rstd[sample] = T(1 / std::sqrt((count > 0 ? squares / count : 0) + eps));
  }
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  const Arguments arguments(x, weight, bias);
  const Inputs& in = arguments.in;
  Tensor out = make_empty(x.sizes(), x);
  Tensor mean = make_empty({in.batch}, arguments.weight), rstd = make_empty({in.batch}, arguments.weight);
  std::vector<double> means(in.batch * in.parts()), squares(means.size());
  const Forward f{in,
                  means.data(),
                  squares.data(),
                  mean.mutable_data_ptr(),
                  rstd.mutable_data_ptr(),
                  out.mutable_data_ptr()};
  const Kernels& isa = kernels();
  over(in, in.batch * in.parts(), kPart,
       [&](int64_t begin, int64_t end, void* scratch) { isa.statistics(f, begin, end, scratch); });
  in.type == Type::kDouble
      ? finish_statistics(f, eps, mean.mutable_data_ptr<double>(), rstd.mutable_data_ptr<double>())
      : finish_statistics(f, eps, mean.mutable_data_ptr<float>(), rstd.mutable_data_ptr<float>());
  over(in, in.batch * in.channels, in.positions,
       [&](int64_t begin, int64_t end, void* scratch) { isa.normalise(f, begin, end, scratch); });
  return {out, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& given_grad, const Tensor& x, const Tensor& weight,
                                            const Tensor& bias, const Tensor& mean, const Tensor& rstd, double) {
  const Arguments arguments(x, weight, bias);
  const Inputs& in = arguments.in;
  MMSPARX_CHECK(given_grad.sizes().equals(x.sizes()) && scalar_type_of(given_grad) == scalar_type_of(x),
                "map_norm: expected grad of x's shape ", x.sizes(), " and type ", scalar_type_of(x), ", got ",
                given_grad.sizes(), " and ", scalar_type_of(given_grad));
  for (const Tensor& statistic : {mean, rstd}) {
    MMSPARX_CHECK(
        statistic.sizes().equals({in.batch}) && scalar_type_of(statistic) == state_type(x) && statistic.is_contiguous(),
        "map_norm: expected mean and rstd as a forward returns them, got ", statistic.sizes(), " in ",
        scalar_type_of(statistic));
  }
  const Tensor grad = as_contiguous(given_grad);
  Tensor dx = make_empty(x.sizes(), x);
  // The sums start as zeros, since there may be no positions.
  Tensor dweight = make_zeros({in.batch, in.channels}, x, ScalarType::Double);
  Tensor dbias = make_zeros({in.batch, in.channels}, x, ScalarType::Double);
  std::vector<double> mean_gradient(in.batch), mean_product(in.batch);
  const Backward b{in,
                   grad.const_data_ptr(),
                   mean.const_data_ptr(),
                   rstd.const_data_ptr(),
                   dweight.mutable_data_ptr<double>(),
                   dbias.mutable_data_ptr<double>(),
                   mean_gradient.data(),
                   mean_product.data(),
                   dx.mutable_data_ptr()};
  const Kernels& isa = kernels();
  over(in, in.batch * in.channels, in.positions,
       [&](int64_t begin, int64_t end, void* scratch) { isa.sums(b, begin, end, scratch); });
  const Tensor exact_weight = as_type(arguments.weight, ScalarType::Double);
  const double* const w = exact_weight.const_data_ptr<double>();
  for (int64_t sample = 0; sample < in.batch; sample++) {
    for (int64_t channel = 0; channel < in.channels; channel++) {
      mean_gradient[sample] += w[channel] * b.dbias_partial[sample * in.channels + channel] / double(in.sample());
      mean_product[sample] += w[channel] * b.dweight_partial[sample * in.channels + channel] / double(in.sample());
    }
  }
  over(in, in.batch * in.channels, in.positions,
       [&](int64_t begin, int64_t end, void* scratch) { isa.gradient(b, begin, end, scratch); });
  return {dx, as_type(sum_over_batch(dweight, arguments.weight), scalar_type_of(weight)),
          as_type(sum_over_batch(dbias, arguments.weight), scalar_type_of(bias))};
}

}  // namespace

MMSPARX_KERNELS(CPU, m) {
  m.impl("map_norm_native", MMSPARX_BOX(forward));
  m.impl("map_norm_bwd_native", MMSPARX_BOX(backward));
}

}  // namespace mmsparx::map_norm
