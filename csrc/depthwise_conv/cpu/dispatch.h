// Dispatch from the run-time choices of the contract to the kernels compiled for them.

#pragma once

#include "planes.h"

namespace mmsparx::depthwise {
namespace {

template <Activation A>
struct Chosen {
  static constexpr Activation value = A;
};

// Calls `run` with a value of the C++ type that corresponds to the tensor's type, the window's side and the activation.
template <typename Run>
void with_kind(const Inputs& in, Run run) {
  with_type(in.type, [&](auto x) {
    const auto with_side = [&](auto activation) {
      in.side == 3 ? run(x, Count<3>{}, activation) : run(x, Count<5>{}, activation);
    };
    switch (in.activation) {
      case Activation::kNone:
        return with_side(Chosen<Activation::kNone>{});
      case Activation::kGelu:
        return with_side(Chosen<Activation::kGelu>{});
      case Activation::kSilu:
        return with_side(Chosen<Activation::kSilu>{});
    }
  });
}

int64_t scratch_bytes(const Inputs& in) {
  return in.type == Type::kDouble ? scratch_numbers<double>(in) * 8 : scratch_numbers<float>(in) * 4;
}

void forward(const Forward& f, int64_t begin, int64_t end, void* scratch) {
  with_kind(f.inputs, [&](auto x, auto side, auto activation) {
    forward_planes<decltype(x), side.value, activation.value>(f, begin, end, scratch);
  });
}

void backward(const Backward& b, int64_t begin, int64_t end, void* scratch) {
  with_kind(b.inputs, [&](auto x, auto side, auto activation) {
    backward_planes<decltype(x), side.value, activation.value>(b, begin, end, scratch);
  });
}

constexpr Kernels kKernels = {scratch_bytes, forward, backward};

}  // namespace
}  // namespace mmsparx::depthwise
