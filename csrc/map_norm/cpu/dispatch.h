// Dispatch from the run-time choices of the contract to the kernels compiled for them.

#pragma once

#include "passes.h"

namespace mmsparx::map_norm {
namespace {

// 16-bit numbers are converted in parts: one of x, one of the gradient and one of the result.
int64_t scratch_bytes(const Inputs& in) { return in.type == Type::kDouble || in.type == Type::kFloat ? 0 : 3 * kPart * 4; }

void statistics(const Forward& f, int64_t begin, int64_t end, void* scratch) {
  with_type(f.inputs.type, [&](auto x) { statistics_of<decltype(x)>(f, begin, end, scratch); });
}

void normalise(const Forward& f, int64_t begin, int64_t end, void* scratch) {
  with_type(f.inputs.type, [&](auto x) { normalise_of<decltype(x)>(f, begin, end, scratch); });
}

void sums(const Backward& b, int64_t begin, int64_t end, void* scratch) {
  with_type(b.inputs.type, [&](auto x) { sums_of<decltype(x)>(b, begin, end, scratch); });
}

void gradient(const Backward& b, int64_t begin, int64_t end, void* scratch) {
  with_type(b.inputs.type, [&](auto x) { gradient_of<decltype(x)>(b, begin, end, scratch); });
}

constexpr Kernels kKernels = {scratch_bytes, statistics, normalise, sums, gradient};

}  // namespace
}  // namespace mmsparx::map_norm
