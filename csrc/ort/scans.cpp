// The scans as nodes, which run the kernels of the selective scan.

#include "scans.h"

#include <algorithm>

#include "../common/cpu/instruction_sets.h"
#include "../selective_scan/cpu/kernels.h"

#define MMSPARX_VECTOR_BYTES 16
#include "../selective_scan/cpu/cross.h"

namespace mmsparx::ort {
namespace {

const Kernels& kernels() { return in_use(avx512_kernels(), avx2_kernels(), baseline_kernels()); }

bool is_empty(const Tensor& x) { return std::count(x.sizes.begin(), x.sizes.end(), 0) > 0; }

struct States : Memory {
  explicit States(int64_t count) : Memory(count * int64_t(sizeof(float))) {
    if (!get()) throw std::bad_alloc();
  }
};

// Writes a map in the order of a direction to `to` (height * width,).
void in_order(int direction, const float* map, int64_t height, int64_t width, float* to) {
  const int64_t length = height * width;
  if (direction == 2) return reverse(map, length, to);
  if (direction == 0) {
    std::copy_n(map, length, to);
    return;
  }
  transpose(map, height, width, to);
  if (direction == 3) std::reverse(to, to + length);
}

}  // namespace

void cross_scan(const Node& node) {
  const Tensor x = node.input(0, "x", {"batch", "C", "H", "W"});
  const Tensor parts = node.input(1, "parts", {"batch", "4 (R + 2 n)", "H", "W"});
  const Tensor weight = node.input(2, "weight", {"4", "C", "R"});
  const Tensor bias = node.input(3, "bias", {"4", "C"});
  const Tensor A = node.input(4, "A", {"4 C", "n"});
  const Tensor D = node.input(5, "D", {"4 C"});
  CrossForward f{};
  Inputs& in = f.inputs;
  CrossInputs& cross = f.cross;
  in.type = Type::kFloat;
  in.batch = x.size(0);
  const int64_t channels = x.size(1), length = x.size(2) * x.size(3);
  in.dim = kDirections * channels;
  in.length = length;
  in.groups = kDirections;
  in.states = A.size(1);
  cross.height = x.size(2);
  cross.width = x.size(3);
  cross.rank = weight.size(2);
  const int64_t each = cross.rank + 2 * in.states;
  node.expect("weight", weight, {kDirections, channels, cross.rank});
  node.expect("bias", bias, {kDirections, channels});
  node.expect("A", A, {in.dim, in.states});
  node.expect("D", D, {in.dim});
  node.expect("parts", parts, {in.batch, kDirections * each, cross.height, cross.width});
  if (in.states < 1) node.fail("A of at least one state", in_words(A.sizes));
  f.out = node.output(x.sizes);
  if (is_empty(x)) return;

  const States ordered(in.batch * kDirections * each * length);
  float* const sequences = static_cast<float*>(ordered.get());
  node.in_parallel(in.batch * kDirections * each, length, 0, [&](int64_t begin, int64_t end, void*) {
    for (int64_t row = begin; row < end; row++) {
      in_order(int(row / each % kDirections), parts.data + row * length, cross.height, cross.width,
               sequences + row * length);
    }
  });
  const auto matrices = [&](int64_t first) {
    return Matrices{sequences + first * length, kDirections * each * length, each * length, length};
  };
  in.u = {x.data, channels * length, length};
  cross.step = matrices(0);
  in.B = matrices(cross.rank);
  in.C = matrices(cross.rank + in.states);
  cross.weight = weight.data;
  in.A = A.data;
  in.D = D.data;
  in.delta_bias = bias.data;
  in.delta_softplus = true;
  const States states(in.batch * in.dim * state_count(length) * in.states);
  f.states = states.get();
  const Kernels& isa = kernels();
  node.in_parallel(in.batch * cross_forward_blocks(in), kDirections * kAbreast * length * in.states,
                   isa.cross_scratch_bytes(in),
                   [&](int64_t begin, int64_t end, void* scratch) { isa.cross_forward(f, begin, end, scratch); });
}

void sequence_scan(const Node& node) {
  const Tensor u = node.input(0, "u", {"batch", "d", "L"});
  const Tensor delta = node.input(1, "delta", {"batch", "d", "L"});
  const Tensor A = node.input(2, "A", {"d", "n"});
  const Tensor B = node.input(3, "B", {"batch", "1", "n", "L"});
  const Tensor C = node.input(4, "C", {"batch", "1", "n", "L"});
  const Tensor D = node.input(5, "D", {"d"});
  const Tensor bias = node.input(6, "bias", {"d"});
  Forward f{};
  Inputs& in = f.inputs;
  in.type = Type::kFloat;
  in.batch = u.size(0);
  in.dim = u.size(1);
  in.length = u.size(2);
  in.groups = 1;
  in.states = A.size(1);
  node.expect("delta", delta, u.sizes);
  node.expect("A", A, {in.dim, in.states});
  node.expect("B", B, {in.batch, 1, in.states, in.length});
  node.expect("C", C, {in.batch, 1, in.states, in.length});
  node.expect("D", D, {in.dim});
  node.expect("bias", bias, {in.dim});
  if (in.states < 1) node.fail("A of at least one state", in_words(A.sizes));
  f.out = node.output(u.sizes);
  if (is_empty(u)) return;

  const auto rows = [&](const Tensor& x) { return Rows{x.data, in.dim * in.length, in.length}; };
  const auto matrices = [&](const Tensor& x) {
    return Matrices{x.data, in.states * in.length, in.states * in.length, in.length};
  };
  in.u = rows(u);
  in.delta = rows(delta);
  in.A = A.data;
  in.B = matrices(B);
  in.C = matrices(C);
  in.D = D.data;
  in.delta_bias = bias.data;
  in.delta_softplus = true;
  const States states(in.batch * in.dim * state_count(in.length) * in.states);
  f.states = states.get();
  const Kernels& isa = kernels();
  node.in_parallel(in.batch * forward_blocks(in), kForwardRows * in.length * in.states, isa.scratch_bytes(in),
                   [&](int64_t begin, int64_t end, void* scratch) { isa.forward(f, begin, end, scratch); });
}

}  // namespace mmsparx::ort
