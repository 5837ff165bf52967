// The operators by which Python reads and chooses the instruction set.

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <string>

#include "instruction_sets.h"

namespace mmsparx {
namespace {

std::vector<std::string> names() {
  const std::vector<const char*> found = instruction_sets();
  return {found.begin(), found.end()};
}

std::string name() { return instruction_set_name(); }

void use(const std::string& name) {
  if (choose_instruction_set(name.c_str())) return;
  std::string known;
  for (const auto& one : names()) known += (known.empty() ? "" : ", ") + one;
  TORCH_CHECK_VALUE(false, "unknown instruction set '", name, "'; this machine and build have: ", known);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(mmsparx, m) {
  m.def("cpu_instruction_sets() -> str[]");
  m.def("cpu_instruction_set() -> str");
  m.def("use_cpu_instruction_set(str name) -> ()");
}

TORCH_LIBRARY_IMPL(mmsparx, CompositeExplicitAutograd, m) {
  m.impl("cpu_instruction_sets", names);
  m.impl("cpu_instruction_set", name);
  m.impl("use_cpu_instruction_set", use);
}

}  // namespace mmsparx
