// Schemas of the native operators.
//
// mmsparx::map_norm and its backward (see library.py) call them if the native backend is chosen. They are not for
// users, and have neither autograd nor fake kernels.

#include "../common/torch_api.h"

MMSPARX_SCHEMAS(m) {
  m.def("map_norm_native(Tensor x, Tensor weight, Tensor bias, float eps) -> (Tensor out, Tensor mean, Tensor rstd)");
  m.def(
      "map_norm_bwd_native(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd, float eps) "
      "-> (Tensor, Tensor, Tensor)");
}
