// The amount of work that a thread takes at a time.

#pragma once

#include <algorithm>
#include <cstdint>

namespace mmsparx {

// A thread takes units of at least 2^15 elements together: for less work, starting a thread takes longer.
inline int64_t grain_of(int64_t elements_per_unit) {
  return std::max<int64_t>(1, (int64_t{1} << 15) / std::max<int64_t>(1, elements_per_unit));
}

}  // namespace mmsparx
