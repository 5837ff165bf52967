// The native operators' schemas.
//
// They are what mmsparx::depthwise_conv2d and its backward (see library.py) run once the native backend was chosen.
// Users do not call them, and they have neither an autograd nor a fake.

#include "../common/torch_api.h"

MMSPARX_SCHEMAS(m) {
  m.def(
      "depthwise_conv2d_native(Tensor x, Tensor weight, Tensor? bias, bool residual, str activation) -> Tensor");
  m.def(
      "depthwise_conv2d_bwd_native(Tensor grad, Tensor x, Tensor weight, Tensor? bias, bool residual, "
      "str activation) -> (Tensor, Tensor, Tensor)");
}
