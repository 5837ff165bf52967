// Rows of inputs to what a tile reads, and back.

#pragma once

#include "vector.h"

namespace mmsparx {
namespace {

// `count` numbers for a tile: where they are, or converted to T in `buffer`.
template <typename T, typename In>
MMSPARX_INLINE const T* stage(const In* from, int count, T* buffer) {
  if constexpr (sizeof(In) == sizeof(T)) {
    return from;
  } else {
    for (int i = 0; i < count; i++) buffer[i] = widen(from[i]);
    return buffer;
  }
}

// Where a tile may write its output: `to` itself, or `buffer`, which `unstage` then converts.
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

}  // namespace
}  // namespace mmsparx
