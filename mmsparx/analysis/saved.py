"""Bytes that a forward pass keeps for the backward pass."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def kept_bytes(forward: Callable[[], object], device: torch.device) -> int:
    """Bytes that a forward pass leaves allocated: its output, and what autograd keeps for the backward pass.

    It counts memory itself and not autograd's saved tensors, which may be kept in another form than as tensors.

    Args:
        forward: Function that runs a model and returns its output. It is called twice, since the first call may make
            what later ones share.
        device: Device of the model.
    """
    with torch.enable_grad():
        forward()
        if device.type == 'cuda':
            before = torch.cuda.memory_allocated(device)
            out = forward()
            kept = torch.cuda.memory_allocated(device) - before
        else:
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                out = forward()
            kept = sum(event.self_cpu_memory_usage for event in profiler.key_averages())
    del out
    return kept
