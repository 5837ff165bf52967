#include "kernels_of.h"

namespace mmsparx {
GpuKernels float_kernels() { return kernels_of<float>(); }
}  // namespace mmsparx
