"""Gradient checkpointing of layers that hold batch norms."""

from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmsparx.layers.norm import BatchNorm


def checkpointed(layer: nn.Module, *inputs: Tensor) -> Tensor:
    """Run a layer that backward recomputes instead of keeping its activations.

    Its batch norms count a batch once, as without checkpointing.

    Args:
        layer: Module to run.
        *inputs: Tensors that it takes.

    Returns:
        What the layer returns.
    """
    if torch.compiler.is_compiling():
        # Compilers take what is written to buffers out of what is recomputed, and contexts are not for them.
        return checkpoint(layer, *inputs, use_reentrant=False)
    return checkpoint(layer, *inputs, use_reentrant=False, context_fn=partial(_contexts, layer))


def _contexts(layer: nn.Module):
    """Contexts of the forward and of its recomputation."""
    return nullcontext(), _statistics_kept(layer)


@contextmanager
def _statistics_kept(module: nn.Module):
    """Batch norms leave it with the running statistics that they had.

    They are put back and not switched off: checkpoint wants to see the same tensors saved again.
    """
    norms = [m for m in module.modules() if isinstance(m, BatchNorm) and m.training]
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
