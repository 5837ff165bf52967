#include "kernels_of.h"

namespace mmsparx {
GpuKernels half_kernels() { return kernels_of<Half>(); }
}  // namespace mmsparx
