"""The scan by the compiled kernels of csrc/selective_scan."""

import torch
from torch import Tensor

from mmsparx.ops.selective_scan import cross


def forward(*arguments) -> tuple[Tensor, Tensor]:
    """As `reference.forward`."""
    return torch.ops.mmsparx.selective_scan_fwd_native(*arguments)


def backward(*arguments) -> tuple[Tensor, ...]:
    """As `reference.backward`, with an empty tensor for the gradient of an absent input."""
    return torch.ops.mmsparx.selective_scan_bwd_native(*arguments)


def cross_forward(*arguments) -> tuple[Tensor, Tensor]:
    """As `cross.forward`, without the scan."""
    if arguments[0].is_cuda:  # its kernels take delta
        return cross.forward_with_delta(torch.ops.mmsparx.cross_selective_scan_with_delta_fwd_native, *arguments)
    return torch.ops.mmsparx.cross_selective_scan_fwd_native(*arguments)


def cross_backward(*arguments) -> tuple[Tensor, ...]:
    """As `cross.backward`, without the scan."""
    if arguments[0].is_cuda:
        return cross.backward_with_delta(torch.ops.mmsparx.cross_selective_scan_with_delta_bwd_native, *arguments)
    return torch.ops.mmsparx.cross_selective_scan_bwd_native(*arguments)
