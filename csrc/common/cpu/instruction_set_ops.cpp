// Operators that list, return and choose the instruction set.

#include <string>

#include "../torch_api.h"
#include "instruction_sets.h"

namespace mmsparx {
namespace {

std::vector<std::string> names() {
  const std::vector<const char*> found = instruction_sets();
  return {found.begin(), found.end()};
}

std::string name() { return instruction_set_name(); }

void use(Text given) {
  const std::string name = string_of(given);
  if (choose_instruction_set(name.c_str())) return;
  std::string known;
  for (const auto& one : names()) known += (known.empty() ? "" : ", ") + one;
  MMSPARX_CHECK(false, "unknown instruction set '", name, "'; this machine and build have: ", known);
}

}  // namespace

MMSPARX_SCHEMAS(m) {
  m.def("cpu_instruction_sets() -> str[]");
  m.def("cpu_instruction_set() -> str");
  m.def("use_cpu_instruction_set(str name) -> ()");
}

MMSPARX_KERNELS(CompositeExplicitAutograd, m) {
  m.impl("cpu_instruction_sets", MMSPARX_BOX(names));
  m.impl("cpu_instruction_set", MMSPARX_BOX(name));
  m.impl("use_cpu_instruction_set", MMSPARX_BOX(use));
}

}  // namespace mmsparx
