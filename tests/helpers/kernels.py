"""Helpers shared by the tests of the operators' own kernels; inputs and the truth of the scan."""

import functools
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from helpers import relative_error
from mmsparx.ops import native, triton_runtime  # importing registers the operators

NAMES = ('u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias')
OWN_TOLERANCE = {torch.bfloat16: 4e-3, torch.float16: 5e-4}  # about two halves of a unit in the last place
forward = torch.ops.mmsparx.selective_scan_fwd
backward = torch.ops.mmsparx.selective_scan_bwd


def on_cpus() -> list[str]:
    """Backends of an operator that can run on this CPU; the compiled kernels count once per instruction set."""
    compiled = [f'native-{name}' for name in native.instruction_sets()]
    interpreted = triton_runtime.missing() is None and triton_runtime.refusal(torch.empty(1)) is None
    return [*compiled, *(['triton'] if interpreted else []), 'reference']


def kept(function: Callable) -> Callable:
    """Cache a function of tensors by their values: the reference is the same for every backend."""
    results = {}

    def key(x: object) -> object:
        return (x.dtype, x.shape, x.detach().double().numpy().tobytes()) if isinstance(x, Tensor) else x

    @functools.wraps(function)
    def call(*arguments, **options):
        leaves, structure = pytree.tree_flatten((arguments, options))
        place = str(structure), *map(key, leaves)
        if place not in results:
            results[place] = function(*arguments, **options)
        return results[place]

    return call


@contextmanager
def fresh_memory_is_nan():
    """Fill uninitialised tensors with NaN."""
    settings = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)  # cuBLAS raises unless a variable is set
    settings.fill_uninitialized_memory = True
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]


def assert_everything_is_written(compute: Callable[[], list[Tensor]]):
    """Assert that results have the same bits again if fresh memory is NaN."""
    expected = compute()
    with fresh_memory_is_nan():
        found = compute()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def inputs(length, *, dim=8, states=1, groups=2, batch=1, dtype=torch.float32, seed=0):
    """u, delta, A, B, C, D and delta_bias, as the operator takes them."""
    generator = torch.Generator().manual_seed(seed)
    exact = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*shape, dtype=dtype):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return (
        normal(batch, dim, length),
        normal(batch, dim, length),
        -torch.exp(0.5 * normal(dim, states, dtype=exact)),
        normal(batch, groups, states, length),
        normal(batch, groups, states, length),
        normal(dim, dtype=exact),
        normal(dim, dtype=exact),
    )


def run(tensors, backend, softplus=True, grad=None) -> list[Tensor]:
    """out, the saved states, and the gradients of all inputs for a gradient that only depends on the shape."""
    out, states = forward(*tensors, softplus, backend)
    if grad is None:
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return [out, states, *backward(grad.to(out), *tensors, states, softplus, backend)]


def to(device, tensors):
    return [x if x is None else x.to(device) for x in tensors]


def assert_close_to_truth(tensors, backend, softplus=True, device='cpu'):
    """Assert an error of at most three times that of eager float32, or the rounding of 16-bit outputs, per tensor."""
    grad = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1)).to(tensors[0].dtype)
    truth = _by_reference([x if x is None else x.double() for x in tensors], softplus, grad)
    eager = _by_reference(tensors, softplus, grad)
    found = to('cpu', run(to(device, tensors), backend, softplus, grad))
    for name, ours, theirs, exact in zip(('out', 'states', *NAMES), found, eager, truth, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        allowed = OWN_TOLERANCE.get(ours.dtype) or 3 * relative_error(theirs, exact) + 1e-6
        assert relative_error(ours, exact) <= allowed, name


@kept
def _by_reference(tensors, softplus, grad):
    return run(tensors, 'reference', softplus, grad)
