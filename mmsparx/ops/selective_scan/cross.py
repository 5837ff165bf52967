"""The scan of a map along four directions, made of a backend's scan with delta and the products around it.

For backends without kernels for all of it. The direction of a sequence is its group; what belongs to
a sequence (delta, step, A, B, C, D, delta_bias, states) is in the order of its direction.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

from mmsparx.ops.cross_scan import cross_merge, cross_scan


def forward(scan: Callable, x: Tensor, step: Tensor, weight: Tensor, *others) -> tuple[Tensor, Tensor]:
    """x (b, D, H, W), step (b, 4, R, L), weight (4 D, R), and from A on as `scan`, a backend's forward.

    Returns (out as x, states).
    """
    return forward_with_delta(partial(_scan_sequences, scan), x, step, weight, *others)


def backward(differentiate: Callable, grad: Tensor, x: Tensor, step: Tensor, weight: Tensor, *others) -> tuple:
    """grad of out, then as `forward`, with `differentiate`, a backend's backward, and the saved states.

    Returns the gradients of x, step, weight and of what follows.
    """
    return backward_with_delta(partial(_differentiate_sequences, differentiate), grad, x, step, weight, *others)


def forward_with_delta(scan: Callable, x: Tensor, step: Tensor, weight: Tensor, *others) -> tuple[Tensor, Tensor]:
    """`forward` by a scan with delta: (x, delta (b, 4 D, L), *others) -> (out as x, states)."""
    with _no_autocast(x):
        return scan(x, _delta(step, weight), *others)


def backward_with_delta(
    differentiate: Callable, grad: Tensor, x: Tensor, step: Tensor, weight: Tensor, *others
) -> tuple:
    """`backward` by a scan with delta: (grad, x, delta, *others) -> the gradients of x, delta and of what follows."""
    with _no_autocast(x):
        dx, ddelta, *gradients = differentiate(grad, x, _delta(step, weight), *others)
        ddelta = ddelta.unflatten(1, (4, -1))
        dstep = torch.matmul(weight.unflatten(0, (4, -1)).transpose(1, 2), ddelta)
        dweight = torch.matmul(ddelta, step.transpose(2, 3)).sum(0).flatten(0, 1)
    return dx, dstep, dweight, *gradients


def _scan_sequences(scan: Callable, x: Tensor, delta: Tensor, *others) -> tuple[Tensor, Tensor]:
    out, states = scan(_sequences(x), delta, *others)
    return cross_merge(out.unflatten(1, (4, -1)), *x.shape[2:]), states


def _differentiate_sequences(differentiate: Callable, grad: Tensor, x: Tensor, *others) -> tuple:
    du, *gradients = differentiate(_sequences(grad), _sequences(x), *others)
    return cross_merge(du.unflatten(1, (4, -1)), *x.shape[2:]), *gradients


def _no_autocast(x: Tensor) -> AbstractContextManager:
    """Autocast reaches into operators: without this, a float32 scan would get a 16-bit delta."""
    if not torch.amp.is_autocast_available(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def _delta(step: Tensor, weight: Tensor) -> Tensor:
    """(b, 4 D, L)."""
    return torch.matmul(weight.unflatten(0, (4, -1)), step).flatten(1, 2)


def _sequences(x: Tensor) -> Tensor:
    """(b, 4 D, L)."""
    return cross_scan(x).flatten(1, 2)
