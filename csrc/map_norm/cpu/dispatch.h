// From the contract's run-time choices to the kernels that are compiled for them.

#pragma once

#include "passes.h"

namespace mmsparx::map_norm {
namespace {

// What is 16 bits wide is converted in parts: of x, the gradient and the result.
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
