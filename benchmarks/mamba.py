"""mamba-ssm's scan on a GPU, if it is installed: as its users call it, and as a backend of the networks.

It requires u, delta, B and C of one type (float32 or 16 bits), A, D and delta_bias in float32, and contiguous
positions; B and C are (b, g, n, L). `mmsparx.ops` passes such tensors, except for float64.
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mmsparx.ops.selective_scan import backends
from mmsparx.ops.selective_scan.reference import state_count

NAME = 'mamba-ssm'
EXTENSION = 'selective_scan_cuda'
DEVICES = ('cuda',)
CHUNK = 2048  # positions between the states that it keeps for its backward


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """`mmsparx.ops.selective_scan` with its softplus, computed by `selective_scan_fn`.

    Raises:
        ImportError: it is not installed, or not for this torch.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn(u, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=True)


def missing() -> str | None:
    """Reason why it cannot be a backend on this machine, or None."""
    if importlib.util.find_spec(EXTENSION) is None:
        return f'mamba-ssm is not installed (there is no module {EXTENSION})'
    return None


def refusal(u: Tensor) -> str | None:
    """Reason why it cannot run on such inputs, or None."""
    if u.device.type not in DEVICES:
        return f'it has kernels for {" and ".join(DEVICES)} alone, got tensors on {u.device.type}'
    return 'it has no kernels for float64' if u.dtype == torch.float64 else None


def forward(u, delta, A, B, C, D, delta_bias, delta_softplus: bool) -> tuple[Tensor, Tensor]:
    """`reference.forward`, but the states hold mamba-ssm's own, which are fewer, and the rest is unused."""
    out, own, *_ = _call('fwd', *_along(u, delta, A, B, C), D, None, delta_bias, delta_softplus)
    states = own.new_empty(u.shape[0], u.shape[1], state_count(u.shape[2]), A.shape[1])
    states.view(-1)[: own.numel()] = own.view(-1)
    return out, states


def backward(grad, u, delta, A, B, C, D, delta_bias, states: Tensor, delta_softplus: bool) -> tuple[Tensor, ...]:
    """`reference.backward`, which only takes the states of `forward`."""
    shape = (u.shape[0], u.shape[1], -(-u.shape[2] // CHUNK), 2 * A.shape[1])
    own = states.view(-1)[: torch.Size(shape).numel()].view(shape)
    grad, *inputs = _along(grad, u, delta, A, B, C)
    # Without a gate, there is neither its gradient nor an ungated output, nor anything to recompute.
    gradients = _call('bwd', *inputs, D, None, delta_bias, grad, own, None, None, delta_softplus, False)
    return tuple(gradients[:7])


def backend() -> backends.Backend:
    """A backend like those of `mmsparx.ops`, which is not registered there."""
    return backends.Backend(NAME, forward, backward, missing, refusal, devices=DEVICES)


@contextmanager
def as_backend() -> Iterator[None]:
    """Register the backend 'mamba-ssm' for a while; 'auto' never takes it."""
    added = backend()
    backends.BACKENDS.append(added)
    try:
        yield
    finally:
        backends.BACKENDS.remove(added)


def _along(*tensors: Tensor) -> list[Tensor]:
    return [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]


def _call(name: str, *arguments) -> list[Tensor]:
    function: Callable = getattr(importlib.import_module(EXTENSION), name)
    try:
        return function(*arguments)
    except TypeError as error:  # a contender that cannot run, not a mistake of this benchmark
        first = str(error).partition('\n')[0]
        raise RuntimeError(f'this mamba-ssm has another interface than versions 1 and 2 have: {first}') from error
