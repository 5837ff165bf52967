// The types of tensors that native operators take.
//
// This header does not use torch: kernels include it.

#pragma once

namespace mmsparx {

// Types of inputs, outputs and their gradients. The arithmetic is in float, or in double for kDouble.
enum class Type { kDouble, kFloat, kBFloat16, kHalf };

}  // namespace mmsparx
