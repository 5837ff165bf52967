// Which of the compiled kernels this machine can run, and which one runs.

#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace mmsparx {

// Names of the instruction sets that this build has and this processor runs, best first.
std::vector<std::string> instruction_sets();

// The kernels in use: the best ones, unless others were chosen.
const Kernels& kernels();

// Chooses by name, for the whole process; returns false, and leaves all as it was, for a name that is not
// in instruction_sets().
bool choose_instruction_set(const std::string& name);

}  // namespace mmsparx
