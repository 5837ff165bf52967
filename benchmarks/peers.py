"""The pure-torch forms of the selective scan that are in use, to compare with.

Each is written from its mathematics, for any state size, in the layout that suits it, and is
differentiable. What they share is around them: everything but the recurrence
h_t = decay_t h_{t-1} + drive_t is one operation over the whole sequence. They differ from
`mmsparx.ops`' own pure-torch backend, which also walks over time, in working on the whole sequence at
once, and in leaving the backward pass to autograd where that is not hopeless.

Shapes: b batch, d channels, g groups of them, n states, L positions; time-major tensors are (L, b, d, n).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Peer = Callable[..., Tensor]


def _around(recurrence: Callable[[Tensor, Tensor], Tensor]) -> Peer:
    """A selective scan around `recurrence`: (log decay, drive) -> h, all time-major."""

    def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
        """As `mmsparx.ops.selective_scan` with its softplus; B and C (b, g, n, L) -> (b, d, L)."""
        groups = B.shape[1]
        step = F.softplus(delta + delta_bias[:, None])

        def time_major(x):  # (b, d, L) -> (L, b, g, d / g, 1), in one stretch per position
            return x.permute(2, 0, 1).contiguous().unflatten(2, (groups, -1)).unsqueeze(-1)

        def per_group(x):  # (b, g, n, L) -> (L, b, g, 1, n)
            return x.permute(3, 0, 1, 2).contiguous().unsqueeze(3)

        log_decay = time_major(step) * A.unflatten(0, (groups, -1))
        drive = time_major(step * u) * per_group(B)
        h = recurrence(log_decay.flatten(2, 3), drive.flatten(2, 3)).unflatten(2, (groups, -1))
        y = (h * per_group(C)).sum(-1)  # (L, b, g, d / g)
        return y.flatten(2).permute(1, 2, 0) + D[:, None] * u

    return scan


def _unbind(log_decay: Tensor, drive: Tensor) -> Tensor:
    h, states = torch.zeros_like(drive[0]), []
    for a, b in zip(log_decay.exp().unbind(0), drive.unbind(0), strict=True):
        h = torch.addcmul(b, a, h)
        states.append(h)
    return torch.stack(states)


def _heinsen(log_decay: Tensor, drive: Tensor) -> Tensor:
    """h_t = exp(S_t) sum over s <= t of exp(log drive_s - S_s), S = cumsum(log decay) (Heinsen, 2023).

    Drives of both signs need complex logarithms. S grows with the sequence, and with it what
    float32 loses of the differences.
    """
    total = log_decay.cumsum(0)
    return (total + torch.logcumsumexp(torch.log(drive.to(drive.dtype.to_complex())) - total, 0)).exp().real


def _associative(log_decay: Tensor, drive: Tensor) -> Tensor:
    """torch.associative_scan, a prototype in torch 2.11; it fuses on a GPU only."""
    from torch._higher_order_ops.associative_scan import associative_scan

    def compose(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    mode = 'pointwise' if drive.is_cuda else 'generic'
    return associative_scan(compose, (log_decay.exp(), drive), 0, combine_mode=mode)[1]


class _InPlace(torch.autograd.Function):
    """A recurrence by an algorithm that works in place, and the same in reverse as its backward.

    With g_t = grad_t + decay_{t+1} g_{t+1}: the gradient of drive is g, that of decay is g_t h_{t-1}.
    Autograd through such an algorithm would keep each of its passes.
    """

    @staticmethod
    def forward(ctx, decay, drive, run):
        h = drive.clone()
        run(decay.clone(), h)
        ctx.run = run
        ctx.save_for_backward(decay, h)
        return h

    @staticmethod
    def backward(ctx, grad):
        decay, h = ctx.saved_tensors
        g = grad.flip(0)
        ctx.run(torch.cat((torch.zeros_like(decay[:1]), decay[1:].flip(0))), g)
        g = g.flip(0)
        return torch.cat((torch.zeros_like(g[:1]), g[1:] * h[:-1])), g, None


def _in_place(run: Callable[[Tensor, Tensor], None]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda log_decay, drive: _InPlace.apply(log_decay.exp(), drive, run)


def _blelloch(a: Tensor, b: Tensor) -> None:
    """The work-efficient parallel scan (Blelloch, 1990), as pscan: b becomes h, a is used up."""
    pairs, inner = b.shape[0] // 2, (b.shape[0] - 1) // 2
    if pairs == 0:
        return
    # Odd positions take in their left neighbours and are scanned; the even ones take in the result.
    b[1::2].addcmul_(a[1::2], b[: 2 * pairs : 2])
    a[1::2].mul_(a[: 2 * pairs : 2])
    _blelloch(a[1::2], b[1::2])
    b[2::2].addcmul_(a[2::2], b[1 : 2 * inner : 2])


def _hillis_steele(a: Tensor, b: Tensor) -> None:
    """The parallel scan of log2(L) steps over everything (Hillis and Steele, 1986): b becomes h."""
    shift = 1
    while shift < b.shape[0]:
        # The right side is computed before it is written: it reads what it overwrites.
        b[shift:] += a[shift:] * b[:-shift]
        a[shift:] = a[shift:] * a[:-shift]
        shift *= 2


def _chunks(a: Tensor, b: Tensor) -> None:
    """Two levels: about sqrt(L) chunks side by side, then from chunk to chunk; b becomes h."""
    length = b.shape[0]
    size = math.isqrt(length)
    whole = length - length % size
    # (chunks, size, b, d, n); what is left over is shorter than a chunk and walked at the end.
    a_chunks, b_chunks = (x[:whole].unflatten(0, (-1, size)) for x in (a, b))
    for t in range(1, size):
        b_chunks[:, t].addcmul_(a_chunks[:, t], b_chunks[:, t - 1])
        a_chunks[:, t].mul_(a_chunks[:, t - 1])
    for c in range(1, whole // size):
        b_chunks[c].addcmul_(a_chunks[c], b_chunks[c - 1, -1])
    for t in range(whole, length):
        b[t].addcmul_(a[t], b[t - 1])


def _mamba_ref(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """The form of mamba's selective_scan_ref: channels first, an index into the sequence per step."""
    per_group = u.shape[1] // B.shape[1]
    B, C = (x.repeat_interleave(per_group, 1) for x in (B, C))  # (b, d, n, L)
    step = F.softplus(delta + delta_bias[:, None])
    decay = torch.exp(torch.einsum('bdl,dn->bdln', step, A))
    drive = torch.einsum('bdl,bdnl,bdl->bdln', step, B, u)
    h, outputs = torch.zeros_like(drive[:, :, 0]), []
    for t in range(u.shape[2]):
        h = decay[:, :, t] * h + drive[:, :, t]
        outputs.append(torch.einsum('bdn,bdn->bd', h, C[:, :, :, t]))
    return torch.stack(outputs, 2) + D[:, None] * u


# Functions (u, delta, A, B, C, D, delta_bias) -> out, by their name in the command and the tables.
PEERS: dict[str, Peer] = {
    'unbind': _around(_unbind),
    'blelloch': _around(_in_place(_blelloch)),
    'hillis-steele': _around(_in_place(_hillis_steele)),
    'associative-scan': _around(_associative),
    'chunks': _around(_in_place(_chunks)),
    'heinsen': _around(_heinsen),
    'mamba-ref': _mamba_ref,
}
