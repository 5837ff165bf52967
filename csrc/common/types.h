// The types of tensors that native operators take.
//
// No torch here: kernels include this file.

#pragma once

namespace mmsparx {

// Of inputs, outputs and their gradients. All arithmetic is in float, or double for double.
enum class Type { kDouble, kFloat, kBFloat16, kHalf };

}  // namespace mmsparx
