// torch_api.h over ATen.

#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <string>

// Raises RuntimeError in Python, with a message of these parts, unless the condition holds.
#define MMSPARX_CHECK TORCH_CHECK

// As TORCH_LIBRARY_FRAGMENT and TORCH_LIBRARY_IMPL, and how the latter names a function.
#define MMSPARX_SCHEMAS(m) TORCH_LIBRARY_FRAGMENT(mmsparx, m)
#define MMSPARX_KERNELS(key, m) TORCH_LIBRARY_IMPL(mmsparx, key, m)
#define MMSPARX_BOX(function) function

namespace mmsparx {

using at::ScalarType;
using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Shape = at::IntArrayRef;

// A string that an operator is given.
using Text = const std::string&;
inline std::string string_of(Text text) { return text; }

inline ScalarType scalar_type_of(const Tensor& x) { return x.scalar_type(); }
inline bool on_one_device(const Tensor& x, const Tensor& y) { return x.device() == y.device(); }

// Contiguous, of these sizes, and of the type and on the device of `like` unless another type is given.
inline Tensor make_empty(Shape sizes, const Tensor& like) { return at::empty(sizes, like.options()); }
inline Tensor make_empty(Shape sizes, const Tensor& like, ScalarType type) {
  return at::empty(sizes, like.options().dtype(type));
}
inline Tensor make_zeros(Shape sizes, const Tensor& like, ScalarType type) {
  return at::zeros(sizes, like.options().dtype(type));
}

// Numbers on the CPU.
inline Tensor make_empty_floats(int64_t count) { return at::empty({count}, at::kFloat); }

// The tensor itself where it is so already.
inline Tensor as_type(const Tensor& x, ScalarType type) { return x.to(type); }
inline Tensor as_contiguous(const Tensor& x) { return x.contiguous(); }

// run(begin, end) over [0, count) on torch's threads, `grain` or more at a time.
template <typename Run>
void in_ranges(int64_t count, int64_t grain, const Run& run) {
  at::parallel_for(0, count, grain, run);
}

}  // namespace mmsparx
