// Dispatch from the run-time choices of the contract to the kernels compiled for them.

#pragma once

#include "cross.h"

namespace mmsparx {
namespace {

// Calls `run` with a value of the C++ type that corresponds to the tensor's type, and with two booleans as types:
// whether there is a softplus, and whether there is a single state.
template <bool Value>
struct Is {
  static constexpr bool value = Value;
};

template <typename Run>
void with_kind(const Inputs& inputs, Run run) {
  with_type(inputs.type, [&](auto x) {
    if (inputs.delta_softplus) {
      inputs.states == 1 ? run(x, Is<true>{}, Is<true>{}) : run(x, Is<true>{}, Is<false>{});
    } else {
      inputs.states == 1 ? run(x, Is<false>{}, Is<true>{}) : run(x, Is<false>{}, Is<false>{});
    }
  });
}

void forward(const Forward& f, int64_t begin, int64_t end, void* scratch) {
  with_kind(f.inputs, [&](auto x, auto softplus, auto one) {
    forward_units<decltype(x), softplus.value, one.value>(f, begin, end, scratch);
  });
}

void backward(const Backward& b, int64_t begin, int64_t end, void* scratch) {
  with_kind(b.inputs, [&](auto x, auto softplus, auto one) {
    backward_units<decltype(x), softplus.value, one.value>(b, begin, end, scratch);
  });
}

void add_partials(const Backward& b, int64_t begin, int64_t end) {
  with_type(b.inputs.type, [&](auto x) { add_partials<decltype(x)>(b, begin, end); });
}

void cross_forward(const CrossForward& f, int64_t begin, int64_t end, void* scratch) {
  with_kind(f.inputs, [&](auto x, auto softplus, auto one) {
    cross_forward_units<decltype(x), softplus.value, one.value>(f, begin, end, scratch);
  });
}

void cross_backward(const CrossBackward& b, int64_t begin, int64_t end, void* scratch) {
  with_kind(b.inputs, [&](auto x, auto softplus, auto one) {
    cross_backward_units<decltype(x), softplus.value, one.value>(b, begin, end, scratch);
  });
}

void cross_add_partials(const CrossBackward& b, int64_t begin, int64_t end) {
  b.inputs.type == Type::kDouble ? cross_add_partials<double>(b, begin, end) : cross_add_partials<float>(b, begin, end);
}

constexpr Kernels kKernels = {scratch_bytes,       forward,       backward,       add_partials,
                              cross_scratch_bytes, cross_forward, cross_backward, cross_add_partials};

}  // namespace
}  // namespace mmsparx
