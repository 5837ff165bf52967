// The GPU backend without its binding, compiled for the CPU as the operators of mmsparx_emulated.

#define MMSPARX_EMULATED
#include "emulator.h"
//
#include <torch/library.h>

#include "cuda/ops.h"
//
#include "checks.cpp"
#include "cuda/kernels_bfloat16.cu"
#include "cuda/kernels_double.cu"
#include "cuda/kernels_float.cu"
#include "cuda/kernels_half.cu"

namespace mmsparx {
namespace {

struct Emulation {
  explicit Emulation(const Tensor&) {}
  void* stream() const { return nullptr; }
  void check() const {}
};

}  // namespace

#define FORWARD \
  "Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, bool delta_softplus) -> (Tensor, Tensor)"
#define BACKWARD                                                                                           \
  "Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias, Tensor states, "             \
  "bool delta_softplus) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"

TORCH_LIBRARY(mmsparx_emulated, m) {
  m.def("let_lanes_fill(bool fill) -> ()", [](bool fill) { lanes_fill = fill; });
  m.def("partial_positions(int batch, int dim, int groups, int states, int length) -> int",
        [](int64_t batch, int64_t dim, int64_t groups, int64_t states, int64_t length) {
          lanes_fill = false;
          Inputs in{};
          in.batch = batch, in.dim = dim, in.groups = groups, in.states = states, in.length = length;
          return gpu_kernels(Type::kBFloat16).backward_positions(in);
        });
  m.def("forward(Tensor u, " FORWARD, Operator<Emulation, forward_on>::call);
  m.def("backward(Tensor grad, Tensor u, " BACKWARD, Operator<Emulation, backward_on>::call);
  m.def("cross_forward(Tensor x, " FORWARD, Operator<Emulation, cross_forward_on>::call);
  m.def("cross_backward(Tensor grad, Tensor x, " BACKWARD, Operator<Emulation, cross_backward_on>::call);
}

}  // namespace mmsparx
