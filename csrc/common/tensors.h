// What native operators ask of tensors.

#pragma once

#include "torch_api.h"
#include "types.h"

namespace mmsparx {

// The type of all arithmetic, and of parameters, beside x.
inline ScalarType state_type(const Tensor& x) {
  return scalar_type_of(x) == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// x's type; `op` and `name` are the operator's and x's name, for the message.
inline Type type_of(const char* op, const char* name, const Tensor& x) {
  switch (scalar_type_of(x)) {
    case ScalarType::Double:
      return Type::kDouble;
    case ScalarType::Float:
      return Type::kFloat;
    case ScalarType::BFloat16:
      return Type::kBFloat16;
    case ScalarType::Half:
      return Type::kHalf;
    default:
      MMSPARX_CHECK(false, op, ": expected ", name, " in Double, Float, BFloat16 or Half, got ", scalar_type_of(x));
  }
}

// x itself, or a copy, whose last two axes, the rows of a map, lie one after the other.
inline Tensor with_contiguous_maps(const Tensor& x) {
  const bool contiguous = (x.size(3) <= 1 || x.stride(3) == 1) && (x.size(2) <= 1 || x.stride(2) == x.size(3));
  return contiguous ? x : as_contiguous(x);
}

}  // namespace mmsparx
