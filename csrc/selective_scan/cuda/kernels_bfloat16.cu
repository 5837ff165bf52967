#include "kernels_of.h"

namespace mmsparx {
GpuKernels bfloat16_kernels() { return kernels_of<BFloat16>(); }
}  // namespace mmsparx
