// The instruction sets that this machine can run, and the one in use.
//
// This header uses neither torch nor std::string, whose ABI may be an older one in torch's builds: libmmsparx_ort is
// linked from the same objects as torch's operators.

#pragma once

#include <vector>

namespace mmsparx {

enum class InstructionSet { kAvx512, kAvx2, kBaseline };

// Names of the instruction sets that this processor runs, best first.
std::vector<const char*> instruction_sets();

// Returns the instruction set in use: the best one, unless another was chosen.
InstructionSet instruction_set();
const char* instruction_set_name();

// Chooses an instruction set by name for the whole library. For a name that is not in instruction_sets() it changes
// nothing and returns false.
bool choose_instruction_set(const char* name);

// Returns an operator's kernels for the instruction set in use.
template <typename Kernels>
const Kernels& in_use(const Kernels* avx512, const Kernels* avx2, const Kernels* baseline) {
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return *avx512;
    case InstructionSet::kAvx2:
      return *avx2;
    case InstructionSet::kBaseline:
      break;
  }
  return *baseline;
}

}  // namespace mmsparx
