// Which instruction sets this machine can run, and which one is in use.
//
// No torch here, and no std::string, whose ABI may be an older one in torch's builds: libmmsparx_ort is linked from
// the same objects as the operators of torch.

#pragma once

#include <vector>

namespace mmsparx {

enum class InstructionSet { kAvx512, kAvx2, kBaseline };

// Names of the instruction sets that this processor runs, best first.
std::vector<const char*> instruction_sets();

// The one in use: the best, unless another was chosen.
InstructionSet instruction_set();
const char* instruction_set_name();

// Chooses by name, for the whole library; returns false, and leaves all as it was, for a name that is not
// in instruction_sets().
bool choose_instruction_set(const char* name);

// An operator's kernels for the instruction set in use.
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
