#include "instruction_sets.h"

#include <atomic>
#include <cstring>

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
    // These builtins check the operating system too, which must save the wider registers.
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

}  // namespace

std::vector<const char*> instruction_sets() {
  std::vector<const char*> names;
  for (const Named& one : runnable()) names.push_back(one.name);
  return names;
}

InstructionSet instruction_set() { return chosen().load()->set; }
const char* instruction_set_name() { return chosen().load()->name; }

bool choose_instruction_set(const char* name) {
  for (const Named& one : runnable()) {
    if (std::strcmp(name, one.name) == 0) {
      chosen() = &one;
      return true;
    }
  }
  return false;
}

}  // namespace mmsparx
