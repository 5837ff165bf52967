"""Bytes that a forward pass keeps for the backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def saved_bytes(model: nn.Module, forward: Callable[[], object]) -> int:
    """Bytes of the tensors that autograd keeps, each memory once, without the model's parameters and buffers.

    Args:
        model: Model that is run.
        forward: Function that runs it, with gradients.
    """
    own = {x.untyped_storage()._cdata for x in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # they are kept, since a storage that is freed may be made again at the same place

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()._cdata
        if storage not in own:
            kept[storage] = x
        return x

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = forward()
    total = sum(x.untyped_storage().nbytes() for x in kept.values())
    del out
    return total
