#include "kernels_of.h"

namespace mmsparx {
GpuKernels double_kernels() { return kernels_of<double>(); }
}  // namespace mmsparx
