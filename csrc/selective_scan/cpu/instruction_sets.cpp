#include "instruction_sets.h"

#include <atomic>

namespace mmsparx {
namespace {

const std::vector<const Kernels*>& runnable() {
  static const std::vector<const Kernels*> found = [] {
    std::vector<const Kernels*> kernels;
#if defined(__x86_64__)
    // These ask the operating system too, which must save the wider registers.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx2 && avx512) kernels.push_back(avx512_kernels());
    if (avx2) kernels.push_back(avx2_kernels());
#endif
    kernels.push_back(baseline_kernels());
    return kernels;
  }();
  return found;
}

std::atomic<const Kernels*>& chosen() {
  static std::atomic<const Kernels*> kernels{runnable().front()};
  return kernels;
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Kernels* kernels : runnable()) names.push_back(kernels->name);
  return names;
}

const Kernels& kernels() { return *chosen(); }

bool choose_instruction_set(const std::string& name) {
  for (const Kernels* kernels : runnable()) {
    if (name == kernels->name) {
      chosen() = kernels;
      return true;
    }
  }
  return false;
}

}  // namespace mmsparx
