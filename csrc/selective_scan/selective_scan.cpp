// The native operators' schemas; each device's folder registers its kernels for them.
//
// They are what mmsparx::selective_scan_fwd, mmsparx::cross_selective_scan_fwd and their backwards (see
// library.py) run once the native backend was chosen. Users do not call them, and they have neither an
// autograd nor a fake.

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
  // The same with delta given, which the kernels for GPUs take.
  m.def(
      "cross_selective_scan_with_delta_fwd_native(Tensor x, Tensor delta, Tensor A, Tensor B, Tensor C, "
      "Tensor? D, Tensor? delta_bias, bool delta_softplus) -> (Tensor out, Tensor states)");
  m.def(
      "cross_selective_scan_with_delta_bwd_native(Tensor grad, Tensor x, Tensor delta, Tensor A, Tensor B, "
      "Tensor C, Tensor? D, Tensor? delta_bias, Tensor states, bool delta_softplus) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}
