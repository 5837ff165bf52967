// Conversion of rows between the type of a tensor and the type that kernels compute in.

#pragma once

#include "../types.h"
#include "vector.h"

namespace mmsparx {
namespace {

// Returns `count` numbers as T: `from` itself if it has that type, else `buffer`, filled with converted numbers.
template <typename T, typename In>
MMSPARX_INLINE const T* stage(const In* from, int count, T* buffer) {
  if constexpr (sizeof(In) == sizeof(T)) {
    return from;
  } else {
    for (int i = 0; i < count; i++) buffer[i] = widen(from[i]);
    return buffer;
  }
}

// Returns the memory that a kernel writes its output to: `to` itself if it has type T, else `buffer`, which `unstage`
// converts later.
template <typename T, typename Out>
MMSPARX_INLINE T* destination(Out* to, T* buffer) {
  if constexpr (sizeof(Out) == sizeof(T)) {
    return to;
  } else {
    return buffer;
  }
}

template <typename T, typename Out>
MMSPARX_INLINE void unstage(const T* from, int count, Out* to) {
  if (static_cast<const void*>(from) == to) return;
  for (int i = 0; i < count; i++) narrow(from[i], to[i]);
}

// Calls `run` with a value of the C++ type that corresponds to `type`.
template <typename Run>
void with_type(Type type, Run run) {
  switch (type) {
    case Type::kDouble:
      return run(double{});
    case Type::kFloat:
      return run(float{});
    case Type::kBFloat16:
      return run(BFloat16{});
    case Type::kHalf:
      return run(Half{});
  }
}

}  // namespace
}  // namespace mmsparx
