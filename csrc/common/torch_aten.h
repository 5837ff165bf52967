// Implementation of torch_api.h over ATen.

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

// TORCH_LIBRARY_FRAGMENT and TORCH_LIBRARY_IMPL of this library, and the form in which the latter takes a function.
#define MMSPARX_SCHEMAS(m) TORCH_LIBRARY_FRAGMENT(mmsparx, m)
#define MMSPARX_KERNELS(key, m) TORCH_LIBRARY_IMPL(mmsparx, key, m)
#define MMSPARX_BOX(function) function

namespace mmsparx {

using at::ScalarType;
using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Shape = at::IntArrayRef;

// A string argument of an operator.
using Text = const std::string&;
inline std::string string_of(Text text) { return text; }

inline ScalarType scalar_type_of(const Tensor& x) { return x.scalar_type(); }
inline bool on_one_device(const Tensor& x, const Tensor& y) { return x.device() == y.device(); }

// Make contiguous tensors of these sizes, on the device of `like`, and of its type unless another is given.
inline Tensor make_empty(Shape sizes, const Tensor& like) { return at::empty(sizes, like.options()); }
inline Tensor make_empty(Shape sizes, const Tensor& like, ScalarType type) {
  return at::empty(sizes, like.options().dtype(type));
}
inline Tensor make_zeros(Shape sizes, const Tensor& like, ScalarType type) {
  return at::zeros(sizes, like.options().dtype(type));
}

// Makes a tensor of `count` floats on the CPU.
inline Tensor make_empty_floats(int64_t count) { return at::empty({count}, at::kFloat); }

// Return the tensor itself if it has the type, or is contiguous, already.
inline Tensor as_type(const Tensor& x, ScalarType type) { return x.to(type); }
inline Tensor as_contiguous(const Tensor& x) { return x.contiguous(); }

// Calls run(begin, end) on ranges of at least `grain` elements that cover [0, count), on torch's threads.
template <typename Run>
void in_ranges(int64_t count, int64_t grain, const Run& run) {
  at::parallel_for(0, count, grain, run);
}

}  // namespace mmsparx
