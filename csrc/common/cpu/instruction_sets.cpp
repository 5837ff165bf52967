#include "instruction_sets.h"

#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <atomic>

namespace mmsparx {
namespace {

struct Named {
  InstructionSet set;
  const char* name;
};

const std::vector<Named>& runnable() {
  static const std::vector<Named> found = [] {
    std::vector<Named> sets;
#if defined(__x86_64__)
    // These ask the operating system too, which must save the wider registers.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx2 && avx512) sets.push_back({InstructionSet::kAvx512, "avx512"});
    if (avx2) sets.push_back({InstructionSet::kAvx2, "avx2"});
#endif
    sets.push_back({InstructionSet::kBaseline, "baseline"});
    return sets;
  }();
  return found;
}

std::atomic<const Named*>& chosen() {
  static std::atomic<const Named*> set{&runnable().front()};
  return set;
}

void use_instruction_set(const std::string& name) {
  if (choose_instruction_set(name)) return;
  std::string known;
  for (const auto& one : instruction_sets()) known += (known.empty() ? "" : ", ") + one;
  TORCH_CHECK_VALUE(false, "unknown instruction set '", name, "'; this machine and build have: ", known);
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Named& one : runnable()) names.push_back(one.name);
  return names;
}

InstructionSet instruction_set() { return chosen().load()->set; }
std::string instruction_set_name() { return chosen().load()->name; }

bool choose_instruction_set(const std::string& name) {
  for (const Named& one : runnable()) {
    if (name == one.name) {
      chosen() = &one;
      return true;
    }
  }
  return false;
}

TORCH_LIBRARY_FRAGMENT(mmsparx, m) {
  m.def("cpu_instruction_sets() -> str[]");
  m.def("cpu_instruction_set() -> str");
  m.def("use_cpu_instruction_set(str name) -> ()");
}

TORCH_LIBRARY_IMPL(mmsparx, CompositeExplicitAutograd, m) {
  m.impl("cpu_instruction_sets", instruction_sets);
  m.impl("cpu_instruction_set", instruction_set_name);
  m.impl("use_cpu_instruction_set", use_instruction_set);
}

}  // namespace mmsparx
