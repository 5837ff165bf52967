"""The selective scan in pure torch: it runs on every device torch knows, and it is the numeric spec.

Both directions walk the sequence in blocks. Within a block everything but the recurrence itself is
one operation over the whole block; the recurrence is a loop over time-major slices with one
`addcmul` a step, so that no step touches more than one time slice. `benchmarks/` has the other forms.

Saved state, the convention that every backend shares: `states` (batch, dim, 1 + chunks, N), float32
(float64 for float64 inputs). Entry c is the state that enters chunk c of `CHUNK` positions: entry 0 is
h_0 = 0, the last one is the final state, and a backward starts any chunk from its own entry.

Shapes below: T time steps of a block, b batch, g groups, r = dim / g channels a group, n states.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64
# Positions per block: a multiple of CHUNK; bounds the working memory to a few BLOCK * dim * N.
BLOCK = 4 * CHUNK


def state_dtype(u: Tensor) -> torch.dtype:
    """The type of A, D, delta_bias, the state and all arithmetic: never 16 bits."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def state_count(length: int) -> int:
    """Saved states of a sequence; never 1, which torch.compile would take for a size of its own."""
    return 1 + (length + CHUNK - 1) // CHUNK


def _sum_of_states(x: Tensor) -> Tensor:
    """(..., n) -> (..., 1). torch's sum of one element takes longer than the product before it."""
    return x if x.shape[-1] == 1 else x.sum(-1, keepdim=True)


class Block:
    """A block's inputs, time-major and in the state's type."""

    def __init__(self, span: slice, u, delta, A, B, C, delta_bias, delta_softplus: bool):
        groups, n = B.shape[1:3]
        dtype = state_dtype(u)

        def per_group(x):  # (b, g, n, L) -> (T, b, g, 1, n)
            return x[..., span].to(dtype).permute(3, 0, 1, 2).unsqueeze(3)

        self.u = time_first(u[:, :, span].to(dtype), groups)
        self.raw_step = time_first(delta[:, :, span].to(dtype), groups)
        if delta_bias is not None:
            self.raw_step = self.raw_step + delta_bias.view(groups, -1, 1)
        self.delta_softplus = delta_softplus
        # Beyond 50, log(1 + exp(x)) is x in float64.
        self.step = F.softplus(self.raw_step, threshold=50) if delta_softplus else self.raw_step
        self.A = A.view(groups, -1, n)
        self.B, self.C = per_group(B), per_group(C)
        self.decay = torch.exp(self.step * self.A)  # (T, b, g, r, n)
        self.drive = (self.step * self.u) * self.B  # (T, b, g, r, n)

    def scan(self, h: Tensor) -> Tensor:
        """h_t = decay_t h_{t-1} + drive_t for every t of the block, from the state before it."""
        return _recurrence(self.decay, self.drive, h)

    def output(self, hs: Tensor, D: Tensor | None) -> Tensor:
        """(b, dim, T): C_t . h_t + D u_t of the block's states hs."""
        y = _sum_of_states(hs * self.C)
        if D is not None:
            y = y + self.u * D.view(self.A.shape[0], -1, 1)
        return _time_last(y)

    def later_decay(self) -> Tensor:
        """The decays of `gradients`' recurrence, backwards in time: 0, then decay_{t+1}."""
        return torch.cat((torch.zeros_like(self.decay[:1]), self.decay[1:].flip(0)))

    def gradients(self, gy: Tensor, h_before: Tensor, hs: Tensor, dh: Tensor, D: Tensor | None) -> '_Gradients':
        """The gradients of the block's inputs.

        Args:
            gy: Gradient of the output, (T, b, g, r, 1).
            h_before, hs: States before and after each step, (T, b, g, r, n).
            dh: Gradient of hs, including the part through later states.
            D: Skip connection.
        """
        # a * h[t-1], and not h - drive, which would cancel (dlog is the gradient of log decay_t).
        dlog = dh * h_before * self.decay
        ddrive = _sum_of_states(dh * self.B)  # gradient of step_t * u_t
        du = ddrive * self.step
        dstep = ddrive * self.u + _sum_of_states(dlog * self.A)
        dD = None
        if D is not None:
            du = du + gy * D.view(self.A.shape[0], -1, 1)
            dD = (gy * self.u).sum((0, 1))
        if self.delta_softplus:
            dstep = dstep * torch.sigmoid(self.raw_step)
        return _Gradients(
            u=_time_last(du),
            delta=_time_last(dstep),
            A=(dlog * self.step).sum((0, 1)),
            B=(dh * (self.step * self.u)).sum(3).permute(1, 2, 3, 0),
            C=(gy * hs).sum(3).permute(1, 2, 3, 0),
            D=dD,
            delta_bias=dstep.sum((0, 1)),
        )


class _Gradients(NamedTuple):
    """Gradients of a block: u, delta (b, dim, T), B, C (b, g, n, T), A (g, r, n), D, delta_bias (g, r, 1)."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    delta_bias: Tensor


def _recurrence(decay: Tensor, drive: Tensor, h: Tensor) -> Tensor:
    states = torch.empty_like(drive)
    for a, b, out in zip(decay.unbind(0), drive.unbind(0), states.unbind(0), strict=True):
        h = torch.addcmul(b, a, h, out=out)
    return states


def time_first(x: Tensor, groups: int) -> Tensor:
    """(b, dim, T) -> (T, b, g, r, 1), laid out again: a time slice must be one stretch of memory."""
    return x.permute(2, 0, 1).contiguous().unflatten(2, (groups, -1)).unsqueeze(-1)


def _time_last(x: Tensor) -> Tensor:
    """(T, b, g, r, 1) -> (b, dim, T)."""
    return x.flatten(2).permute(1, 2, 0)


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
    """Returns (out (b, dim, L) in u's type, states)."""
    batch, dim, length = u.shape
    groups, n = B.shape[1:3]
    dtype = state_dtype(u)
    out = torch.empty((batch, dim, length), dtype=u.dtype, device=u.device)
    states = torch.empty((batch, dim, state_count(length), n), dtype=dtype, device=u.device)
    states[:, :, 0] = 0
    h = torch.zeros((batch, groups, dim // groups, n), dtype=dtype, device=u.device)
    for start in range(0, length, BLOCK):
        span = slice(start, min(start + BLOCK, length))
        block = Block(span, u, delta, A, B, C, delta_bias, delta_softplus)
        hs = block.scan(h)
        h = hs[-1]
        out[:, :, span] = block.output(hs, D)
        ends = hs[CHUNK - 1 :: CHUNK]
        if hs.shape[0] % CHUNK:
            ends = torch.cat((ends, hs[-1:]))
        first = start // CHUNK + 1
        states[:, :, first : first + ends.shape[0]] = ends.flatten(2, 3).permute(1, 2, 0, 3)
    return out, states


def backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    states: Tensor,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of u, delta, A, B, C, D and delta_bias (None where the input is None)."""
    batch, dim, length = u.shape
    groups, n = B.shape[1:3]
    dtype = state_dtype(u)
    du, ddelta, dB, dC = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (u, delta, B, C))
    per_group_channel = (groups, dim // groups)
    dA = torch.zeros((*per_group_channel, n), dtype=dtype, device=u.device)
    dD, ddelta_bias = (torch.zeros((*per_group_channel, 1), dtype=dtype, device=u.device) for _ in range(2))
    # The gradient that reaches h_t from later positions, already multiplied by decay_{t+1}.
    carry = torch.zeros((batch, *per_group_channel, n), dtype=dtype, device=u.device)
    for start in reversed(range(0, length, BLOCK)):
        span = slice(start, min(start + BLOCK, length))
        block = Block(span, u, delta, A, B, C, delta_bias, delta_softplus)
        before = states[:, :, start // CHUNK].reshape(carry.shape)
        hs = block.scan(before)
        gy = time_first(grad[:, :, span].to(dtype), groups)

        # dh_t = C_t gy_t + decay_{t+1} dh_{t+1}: the same recurrence, backwards in time.
        direct = gy * block.C
        direct[-1] += carry
        dh = _recurrence(block.later_decay(), direct.flip(0), torch.zeros_like(carry)).flip(0)
        carry = block.decay[0] * dh[0]

        h_before = torch.cat((before.unsqueeze(0), hs[:-1]))
        gradients = block.gradients(gy, h_before, hs, dh, D)
        dA += gradients.A
        ddelta_bias += gradients.delta_bias
        if D is not None:
            dD += gradients.D
        du[:, :, span], ddelta[:, :, span] = gradients.u, gradients.delta
        dB[..., span], dC[..., span] = gradients.B, gradients.C
    return (
        du,
        ddelta,
        dA.view(dim, n),
        dB,
        dC,
        None if D is None else dD.view(dim),
        None if delta_bias is None else ddelta_bias.view(dim),
    )
