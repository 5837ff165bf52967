// What native operators ask of tensors.

#pragma once

#include <ATen/core/Tensor.h>

#include "types.h"

namespace mmsparx {

// The type of all arithmetic, and of parameters, beside x.
inline at::ScalarType state_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// x's type; `op` and `name` are the operator's and x's name, for the message.
inline Type type_of(const char* op, const char* name, const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kDouble:
      return Type::kDouble;
    case at::kFloat:
      return Type::kFloat;
    case at::kBFloat16:
      return Type::kBFloat16;
    case at::kHalf:
      return Type::kHalf;
    default:
      TORCH_CHECK(false, op, ": expected ", name, " in Double, Float, BFloat16 or Half, got ", x.scalar_type());
  }
}

// x itself, or a copy, whose last two axes, the rows of a map, lie one after the other.
inline at::Tensor with_contiguous_maps(const at::Tensor& x) {
  const bool contiguous = (x.size(3) <= 1 || x.stride(3) == 1) && (x.size(2) <= 1 || x.stride(2) == x.size(3));
  return contiguous ? x : x.contiguous();
}

}  // namespace mmsparx
