"""The scan and its gradients, composed of differentiable torch operations.

For what no kernel computes: tangents (forward-mode AD) and second derivatives. The formulas are those of `reference`,
on the whole sequence at once and without writing into tensors, so that torch differentiates them in any mode and as
often as asked. They take a step of Python for each position, and memory for all states, some ten times.
"""

import torch
from torch import Tensor

from mmsparx.ops.selective_scan.reference import CHUNK, Block, time_first


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """`reference.forward` of differentiable operations."""
    block = Block(slice(None), u, delta, A, B, C, delta_bias, delta_softplus)
    hs = _recurrence(block.decay, block.drive)
    ends = hs[CHUNK - 1 :: CHUNK]
    if hs.shape[0] % CHUNK:
        ends = torch.cat((ends, hs[-1:]))
    states = torch.cat((torch.zeros_like(hs[:1]), ends)).flatten(2, 3).permute(1, 2, 0, 3)
    return block.output(hs, D).to(u.dtype).contiguous(), states.contiguous()


def backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    states: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """`reference.backward` that recomputes the saved states: the saved ones have no derivative."""
    block = Block(slice(None), u, delta, A, B, C, delta_bias, delta_softplus)
    hs = _recurrence(block.decay, block.drive)
    gy = time_first(grad.to(hs.dtype), B.shape[1])
    dh = _recurrence(block.later_decay(), (gy * block.C).flip(0)).flip(0)
    h_before = torch.cat((torch.zeros_like(hs[:1]), hs[:-1]))
    gradients = block.gradients(gy, h_before, hs, dh, D)
    inputs = {'u': u, 'delta': delta, 'A': A, 'B': B, 'C': C, 'D': D, 'delta_bias': delta_bias}
    return tuple(
        None if x is None else getattr(gradients, name).reshape(x.shape).to(x.dtype) for name, x in inputs.items()
    )


def _recurrence(decay: Tensor, drive: Tensor) -> Tensor:
    """h_t = decay_t h_{t-1} + drive_t, from h_0 = 0: (T, ...)."""
    states = [drive[0]]
    for a, b in zip(decay[1:].unbind(0), drive[1:].unbind(0), strict=True):
        states.append(torch.addcmul(b, a, states[-1]))
    return torch.stack(states)
