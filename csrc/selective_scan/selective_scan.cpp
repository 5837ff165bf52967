// Schemas of the native operators; each device's folder registers kernels for them.
//
// mmsparx::selective_scan_fwd, mmsparx::cross_selective_scan_fwd and their backwards (see library.py) call them if the
// native backend is chosen. They are not for users, and have neither autograd nor fake kernels.

#include "../common/torch_api.h"

MMSPARX_SCHEMAS(m) {
  m.def(
      "selective_scan_fwd_native(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, "
      "Tensor? delta_bias, bool delta_softplus) -> (Tensor out, Tensor states)");
  m.def(
      "selective_scan_bwd_native(Tensor grad, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, "
      "Tensor? delta_bias, Tensor states, bool delta_softplus) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "cross_selective_scan_fwd_native(Tensor x, Tensor step, Tensor weight, Tensor A, Tensor B, Tensor C, "
      "Tensor? D, Tensor? delta_bias, bool delta_softplus) -> (Tensor out, Tensor states)");
  m.def(
      "cross_selective_scan_bwd_native(Tensor grad, Tensor x, Tensor step, Tensor weight, Tensor A, Tensor B, "
      "Tensor C, Tensor? D, Tensor? delta_bias, Tensor states, bool delta_softplus) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // These take delta itself, as the GPU kernels do.
  m.def(
      "cross_selective_scan_with_delta_fwd_native(Tensor x, Tensor delta, Tensor A, Tensor B, Tensor C, "
      "Tensor? D, Tensor? delta_bias, bool delta_softplus) -> (Tensor out, Tensor states)");
  m.def(
      "cross_selective_scan_with_delta_bwd_native(Tensor grad, Tensor x, Tensor delta, Tensor A, Tensor B, "
      "Tensor C, Tensor? D, Tensor? delta_bias, Tensor states, bool delta_softplus) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}
