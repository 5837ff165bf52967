#include "checks.h"

namespace mmsparx {
namespace {

void check(const char* name, const Tensor& x, Shape shape, ScalarType type, const Tensor& u) {
  MMSPARX_CHECK(x.sizes().equals(shape), "selective_scan: expected ", name, " of shape ", shape, " beside u of shape ",
                u.sizes(), ", got ", x.sizes());
  MMSPARX_CHECK(scalar_type_of(x) == type, "selective_scan: expected ", name, " in ", type, " beside u in ",
                scalar_type_of(u), ", got ", scalar_type_of(x));
  MMSPARX_CHECK(on_one_device(x, u), "selective_scan: expected ", name, " on u's device ", u.device(), ", got ",
                x.device());
}

// Kernels require contiguous positions, and contiguous rows of a map; other strides are arbitrary.
void make_last_stride_one(Tensor& x) {
  if (x.size(-1) > 1 && x.stride(-1) != 1) x = as_contiguous(x);
}

Rows rows(Tensor& x) {
  make_last_stride_one(x);
  if (x.dim() == 4 && x.size(2) > 1 && x.stride(2) != x.size(3)) x = as_contiguous(x);
  return {x.const_data_ptr(), x.stride(0), x.stride(1)};
}

Matrices matrices(Tensor& x) {
  make_last_stride_one(x);
  return {x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}

const void* vector_or_null(const char* name, OptionalTensor& x, int64_t size, const Tensor& u) {
  if (!x) return nullptr;
  check(name, *x, {size}, state_type(u), u);
  x = as_contiguous(*x);
  return x->const_data_ptr();
}

void check_sequences(const Tensor& u) {
  MMSPARX_CHECK(u.dim() == 3 && u.size(2) >= 1, "selective_scan: expected u of shape (batch, dim, L) with L >= 1, got ",
                u.sizes());
}

void check_map(const Tensor& x) {
  MMSPARX_CHECK(x.dim() == 4 && x.size(2) >= 1 && x.size(3) >= 1,
                "selective_scan: expected x of shape (batch, channels, H, W) of at least one pixel, got ", x.sizes());
}

int64_t checked_states(const Tensor& A, int64_t dim) {
  MMSPARX_CHECK(A.dim() == 2 && A.size(0) == dim && A.size(1) >= 1, "selective_scan: expected A of shape (", dim,
                ", N) for ", dim, " channels, got ", A.sizes());
  return A.size(1);
}

// Checks all tensors but delta; B and C have `matrices_type`.
Inputs checked_but_delta(Tensors& t, bool delta_softplus, Scanned scanned, ScalarType matrices_type) {
  const Tensor& u = t.u;
  const bool map = scanned == Scanned::kMap;
  map ? check_map(u) : check_sequences(u);
  Inputs in{};
  in.type = type_of("selective_scan", "u", u);
  in.batch = u.size(0);
  in.dim = map ? kDirections * u.size(1) : u.size(1);
  in.length = map ? u.size(2) * u.size(3) : u.size(2);
  in.states = checked_states(t.A, in.dim);
  MMSPARX_CHECK(t.B.dim() == 4, "selective_scan: expected B of shape (batch, G, N, L), got ", t.B.sizes());
  in.groups = t.B.size(1);
  MMSPARX_CHECK(in.groups >= 1 && in.dim % in.groups == 0, "selective_scan: expected groups (B.shape[1]) that divide ",
                in.dim, " channels, got ", in.groups);
  MMSPARX_CHECK(!map || in.groups == kDirections, "selective_scan: expected B of a map's 4 directions, got ",
                in.groups);
  check("A", t.A, {in.dim, in.states}, state_type(u), u);
  check("B", t.B, {in.batch, in.groups, in.states, in.length}, matrices_type, u);
  check("C", t.C, {in.batch, in.groups, in.states, in.length}, matrices_type, u);
  in.D = vector_or_null("D", t.D, in.dim, u);
  in.delta_bias = vector_or_null("delta_bias", t.delta_bias, in.dim, u);
  t.A = as_contiguous(t.A);
  in.A = t.A.const_data_ptr();
  in.u = rows(t.u);
  in.B = matrices(t.B);
  in.C = matrices(t.C);
  in.delta_softplus = delta_softplus;
  return in;
}

}  // namespace

Inputs checked_inputs(Tensors& t, bool delta_softplus, Scanned scanned) {
  Inputs in = checked_but_delta(t, delta_softplus, scanned, scalar_type_of(t.u));
  check("delta", t.delta, {in.batch, in.dim, in.length}, scalar_type_of(t.u), t.u);
  in.delta = rows(t.delta);
  return in;
}

Inputs checked_inputs(CrossTensors& t, bool delta_softplus, CrossInputs& cross) {
  const ScalarType type = state_type(t.u);
  const Inputs in = checked_but_delta(t, delta_softplus, Scanned::kMap, type);
  MMSPARX_CHECK(t.weight.dim() == 2, "selective_scan: expected weight of shape (", in.dim, ", R), got ",
                t.weight.sizes());
  cross = size_of_map(t.u);
  cross.rank = t.weight.size(1);
  check("step", t.step, {in.batch, kDirections, cross.rank, in.length}, type, t.u);
  check("weight", t.weight, {in.dim, cross.rank}, type, t.u);
  cross.step = matrices(t.step);
  t.weight = as_contiguous(t.weight);
  cross.weight = t.weight.const_data_ptr();
  return in;
}

CrossInputs size_of_map(const Tensor& x) {
  CrossInputs cross{};
  cross.height = x.size(2);
  cross.width = x.size(3);
  return cross;
}

Rows checked_grad(Tensor& grad, const Tensor& u) {
  check("grad", grad, u.sizes(), scalar_type_of(u), u);
  return rows(grad);
}

void check_states(const Tensor& states, int64_t dim, int64_t length, int64_t state_size, const Tensor& u) {
  check("states", states, {u.size(0), dim, state_count(length), state_size}, state_type(u), u);
  MMSPARX_CHECK(states.is_contiguous(), "selective_scan: expected contiguous states, as a forward returns them");
}

}  // namespace mmsparx
