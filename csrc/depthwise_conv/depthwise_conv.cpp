// Schemas of the native operators.
//
// mmsparx::depthwise_conv2d and its backward (see library.py) call them if the native backend is chosen. They are not
// for users, and have neither autograd nor fake kernels.

#include "../common/torch_api.h"

MMSPARX_SCHEMAS(m) {
  m.def(
      "depthwise_conv2d_native(Tensor x, Tensor weight, Tensor? bias, bool residual, str activation) -> Tensor");
  m.def(
      "depthwise_conv2d_bwd_native(Tensor grad, Tensor x, Tensor weight, Tensor? bias, bool residual, "
      "str activation) -> (Tensor, Tensor, Tensor)");
}
