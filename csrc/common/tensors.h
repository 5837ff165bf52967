// Checks and conversions of the tensors that native operators take.

#pragma once

#include "torch_api.h"
#include "types.h"

namespace mmsparx {

// Returns the type of the arithmetic, which is also that of parameters, for an input x.
inline ScalarType state_type(const Tensor& x) {
  return scalar_type_of(x) == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Returns x's type, or raises an error that names x by `op` and `name`, the operator and its argument.
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

// Returns x, or a copy of it, with the last two axes (the rows of a map) contiguous.
inline Tensor with_contiguous_maps(const Tensor& x) {
  const bool contiguous = (x.size(3) <= 1 || x.stride(3) == 1) && (x.size(2) <= 1 || x.stride(2) == x.size(3));
  return contiguous ? x : as_contiguous(x);
}

}  // namespace mmsparx
