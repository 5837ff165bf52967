"""The scan of a map along four directions, made of a backend's plain scan and the reordering around it.

For backends without kernels of their own for it. The direction of a sequence is its group; what belongs to
a sequence (step, A, B, C, D, delta_bias, states) is in the order of its direction.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from mmsparx.ops.cross_scan import cross_merge, cross_scan


def forward(scan: Callable, x: Tensor, step: Tensor, weight: Tensor, *others) -> tuple[Tensor, Tensor]:
    """x (b, D, H, W), step (b, 4, R, L), weight (4 D, R), and from A on as `scan`, a backend's forward.

    Returns (out as x, states).
    """
    with _no_autocast(x):
        out, states = scan(*_sequences(x, step, weight), *others)
    return cross_merge(out.unflatten(1, (4, -1)), *x.shape[2:]), states


def backward(differentiate: Callable, grad: Tensor, x: Tensor, step: Tensor, weight: Tensor, *others) -> tuple:
    """grad of out, then as `forward`, with `differentiate`, a backend's backward, and the saved states.

    Returns the gradients of x, step, weight and of what follows.
    """
    with _no_autocast(x):
        u, delta = _sequences(x, step, weight)
        du, ddelta, *gradients = differentiate(cross_scan(grad).flatten(1, 2), u, delta, *others)
        dx = cross_merge(du.unflatten(1, (4, -1)), *x.shape[2:])
        ddelta = ddelta.unflatten(1, (4, -1))
        dstep = torch.matmul(weight.unflatten(0, (4, -1)).transpose(1, 2), ddelta)
        dweight = torch.matmul(ddelta, step.transpose(2, 3)).sum(0).flatten(0, 1)
    return dx, dstep, dweight, *gradients


def _no_autocast(x: Tensor) -> AbstractContextManager:
    """Autocast reaches into operators: without this, a float32 scan would get a 16-bit delta."""
    if not torch.amp.is_autocast_available(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def _sequences(x: Tensor, step: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """u and delta (b, 4 D, L)."""
    return cross_scan(x).flatten(1, 2), torch.matmul(weight.unflatten(0, (4, -1)), step).flatten(1, 2)
