// The part of torch that the operators' bindings use, under the same names over two interfaces:
//
// - ATen. The library runs with the minor version of torch that it was compiled against.
// - torch's stable ABI, where MMSPARX_STABLE_ABI is defined. The library runs with every torch from
//   TORCH_TARGET_VERSION on.
//
// Both interfaces have the types Tensor, OptionalTensor, ScalarType, Shape and Text; the functions scalar_type_of,
// on_one_device, make_empty, make_zeros, make_empty_floats, as_type, as_contiguous, in_ranges and string_of; and the
// macros MMSPARX_CHECK, MMSPARX_SCHEMAS, MMSPARX_KERNELS and MMSPARX_BOX. Both kinds of tensor have the same members
// for sizes, devices and data.

#pragma once

#ifdef MMSPARX_STABLE_ABI
#include "torch_stable.h"
#else
#include "torch_aten.h"
#endif
