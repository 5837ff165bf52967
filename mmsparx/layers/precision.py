"""Computations that must not be in 16 bits, and their protection from autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# Asked here, since torch.compile cannot follow the question in a forward.
_WITHOUT_AUTOCAST = [name for name in ('meta', 'mps') if not torch.amp.is_autocast_available(name)]


def full_precision(device: torch.device) -> AbstractContextManager:
    """Turn autocast off, so that float32 products stay float32."""
    if device.type in _WITHOUT_AUTOCAST or not torch.is_autocast_enabled(device.type):
        return nullcontext()  # and nothing in exported graphs
    return torch.autocast(device.type, enabled=False)


def wide_range(x: Tensor) -> Tensor:
    """x, in float32 if it is in float16, which ends at 65504; bfloat16 has float32's range."""
    return x.float() if x.dtype == torch.float16 else x
