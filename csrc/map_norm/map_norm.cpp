// The native operators' schemas.
//
// They are what mmsparx::map_norm and its backward (see library.py) run once the native backend was chosen. Users do
// not call them, and they have neither an autograd nor a fake.

#include "../common/torch_api.h"

MMSPARX_SCHEMAS(m) {
  m.def("map_norm_native(Tensor x, Tensor weight, Tensor bias, float eps) -> (Tensor out, Tensor mean, Tensor rstd)");
  m.def(
      "map_norm_bwd_native(Tensor grad, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd, float eps) "
      "-> (Tensor, Tensor, Tensor)");
}
