"""The scan by the compiled kernels of csrc/selective_scan."""

import torch
from torch import Tensor

from mmsparx.ops.selective_scan import cross


def forward(*arguments) -> tuple[Tensor, Tensor]:
    """`reference.forward` by the compiled kernels."""
    return torch.ops.mmsparx.selective_scan_fwd_native(*arguments)


def backward(*arguments) -> tuple[Tensor, ...]:
    """`reference.backward` by the compiled kernels, with an empty tensor for the gradient of an absent input."""
    return torch.ops.mmsparx.selective_scan_bwd_native(*arguments)


def cross_forward(*arguments) -> tuple[Tensor, Tensor]:
    """`cross.forward` by the compiled kernels, without the argument `scan`."""
    if arguments[0].is_cuda:  # its kernels take delta
        return cross.forward_with_delta(torch.ops.mmsparx.cross_selective_scan_with_delta_fwd_native, *arguments)
    return torch.ops.mmsparx.cross_selective_scan_fwd_native(*arguments)


def cross_backward(*arguments) -> tuple[Tensor, ...]:
    """`cross.backward` by the compiled kernels, without the argument `differentiate`."""
    if arguments[0].is_cuda:
        return cross.backward_with_delta(torch.ops.mmsparx.cross_selective_scan_with_delta_bwd_native, *arguments)
    return torch.ops.mmsparx.cross_selective_scan_bwd_native(*arguments)
