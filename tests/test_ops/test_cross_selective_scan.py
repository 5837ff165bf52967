"""The scan of a map in four directions, against its definition by the plain scan."""

import copy
import re

import pytest
import torch
from helpers import relative_error
from helpers.kernels import assert_everything_is_written
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.flop_counter import FlopCounterMode

from mmsparx.ops import cross_merge, cross_scan, cross_selective_scan, native, selective_scan

FORWARD = torch.ops.mmsparx.cross_selective_scan_fwd.default
BACKWARD = torch.ops.mmsparx.cross_selective_scan_bwd.default
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
# Backends without kernels of their own round after every step, of which there are four.
TOLERANCE_16_BIT = {torch.bfloat16: 1.6e-2, torch.float16: 2e-3}
NAMES = ('x', 'step', 'weight', 'A', 'B', 'C', 'D', 'delta_bias')


def inputs(
    height, width, channels=3, states=1, rank=2, *, batch=2, dtype=torch.float64, requires_grad=False, device='cpu'
):
    """Arguments of `cross_selective_scan`, by name."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*shape, dtype=dtype):
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        return x.to(device=device, dtype=dtype)

    length, dim = height * width, 4 * channels
    tensors = {
        'x': normal(batch, channels, height, width),
        'step': normal(batch, 4, rank, length),
        'weight': normal(dim, rank),
        'A': -torch.exp(0.5 * normal(dim, states, dtype=exact)),
        'B': normal(batch, 4, states, length),
        'C': normal(batch, 4, states, length),
        'D': normal(dim, dtype=exact),
        'delta_bias': normal(dim, dtype=exact),
    }
    return {name: x.requires_grad_(requires_grad) for name, x in tensors.items()}


def definition(x, step, weight, A, B, C, D=None, delta_bias=None, delta_softplus=True):
    delta = torch.matmul(weight.unflatten(0, (4, -1)), step).flatten(1, 2)
    u = cross_scan(x).flatten(1, 2)
    y = selective_scan(u, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=delta_softplus, backend='reference')
    return cross_merge(y.unflatten(1, (4, -1)), *x.shape[2:])


def same(found, expected, backend, moved):
    """Whether results have the same bits, if another layout or alignment of the input `moved` must not change them.

    On GPUs delta comes from cuBLAS, which chooses its kernel by the layout and alignment of step and weight; then they
    are the same but for rounding.
    """
    if moved not in ('step', 'weight') or not backend.endswith('-on-gpu'):
        return torch.equal(found, expected)
    return relative_error(found, expected) < (TOLERANCE | TOLERANCE_16_BIT)[found.dtype]


def assert_agrees(tensors, backend, tolerance, delta_softplus=True):
    """Assert that output and all gradients agree with the definition in float64."""
    ours = {name: x.detach().clone().requires_grad_() for name, x in tensors.items()}
    truth = {name: x.detach().double().requires_grad_() for name, x in tensors.items()}
    out = cross_selective_scan(**ours, delta_softplus=delta_softplus, backend=backend)
    expected = definition(**truth, delta_softplus=delta_softplus)
    assert (out.dtype, out.shape) == (tensors['x'].dtype, tensors['x'].shape)
    assert relative_error(out, expected) < tolerance
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    out.backward(grad)
    expected.backward(grad.double())
    for name, x in ours.items():
        assert x.grad.dtype == x.dtype
        assert relative_error(x.grad, truth[name].grad) < tolerance, name


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
class TestTruth:
    # Sides are around the blocks of 8 in which a map is transposed, lengths around chunks and tiles; 16 x 16 is a tile.
    @pytest.mark.parametrize(
        ('height', 'width'), [(1, 1), (1, 9), (9, 1), (7, 7), (8, 8), (5, 13), (16, 16), (17, 15), (9, 40)]
    )
    def test_sizes(self, height, width, dtype, backend):
        assert_agrees(inputs(height, width, dtype=dtype), backend, TOLERANCE[dtype])

    # Channels are scanned four at a time, and summed in blocks of 16.
    @pytest.mark.parametrize('channels', [1, 4, 6, 18, 33])
    def test_channels(self, channels, dtype, backend):
        assert_agrees(inputs(6, 7, channels, dtype=dtype), backend, TOLERANCE[dtype])

    # With a lane per row, warps have 32 rows, which are read 16 bytes at a time.
    def test_whole_warps(self, dtype, backend):
        assert_agrees(inputs(12, 12, 33, batch=1, dtype=dtype), backend, TOLERANCE[dtype])

    # The maps exceed a GPU block's shared memory for every type; there are whole squares of 32 x 32 pixels and parts.
    @pytest.mark.parametrize(('height', 'width', 'states'), [(63, 81, 1), (96, 64, 1), (1, 4999, 1), (71, 71, 2)])
    def test_large_maps(self, height, width, states, dtype, kernels):
        assert_agrees(inputs(height, width, 2, states, batch=1, dtype=dtype), kernels, 2 * TOLERANCE[dtype])

    @pytest.mark.parametrize(('states', 'rank'), [(2, 1), (16, 5), (1, 20)])
    def test_states_and_ranks(self, states, rank, dtype, backend):
        tensors = inputs(5, 14, states=states, rank=rank, dtype=dtype)
        tensors['weight'] = tensors['weight'] / rank
        assert_agrees(tensors, backend, TOLERANCE[dtype])

    @pytest.mark.parametrize('absent', [('D',), ('delta_bias',), ('D', 'delta_bias')])
    def test_without_the_optional_ones(self, absent, dtype, backend):
        tensors = {name: x for name, x in inputs(6, 11, dtype=dtype).items() if name not in absent}
        assert_agrees(tensors, backend, TOLERANCE[dtype])

    def test_without_softplus(self, dtype, backend):
        tensors = {
            name: x.abs() if name in ('step', 'weight', 'delta_bias') else x for name, x in inputs(6, 11).items()
        }
        tensors = {name: x.to(dtype) for name, x in tensors.items()}
        assert_agrees(tensors, backend, TOLERANCE[dtype], delta_softplus=False)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ('height', 'width', 'channels'),
    [(9, 33, 6), (7, 7, 33), (14, 14, 2), (8, 16, 3), (28, 28, 2), (17, 23, 33), (8, 17, 33), (16, 23, 32)],
)
def test_16_bit(height, width, channels, dtype, backend):
    # Backends with kernels of their own round once, the others after every step.
    own = backend == 'native'
    tolerance = {torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype] if own else TOLERANCE_16_BIT[dtype]
    assert_agrees(inputs(height, width, channels, dtype=dtype), backend, tolerance)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_16_bit_large_maps(dtype, kernels):
    assert_agrees(inputs(64, 80, channels=2, batch=1, dtype=dtype), kernels, TOLERANCE_16_BIT[dtype])


@pytest.mark.emulated
def test_many_rows_go_by_lanes(use):
    def run(backend, size):
        tensors = inputs(*size, dtype=torch.float32, requires_grad=True)
        out = cross_selective_scan(**tensors, delta_softplus=True, backend=backend)
        return [out, *torch.autograd.grad(out.square().sum(), [tensors[name] for name in 'xABC'])]

    for size in ((7, 7), (64, 80)):  # maps in shared memory, and in global memory
        warps, lanes = (run(use(name), size) for name in ('emulated', 'emulated-lanes'))
        for ours, theirs in zip(lanes, warps, strict=True):
            assert not torch.equal(ours, theirs)  # the same but for rounding
            assert relative_error(ours, theirs) < 2 * TOLERANCE[torch.float32]


def test_gradcheck(backend):
    tensors = inputs(2, 3, channels=2, states=2, requires_grad=True)
    names = list(tensors)

    def scan(*values):
        return cross_selective_scan(**dict(zip(names, values, strict=True)), delta_softplus=True, backend=backend)

    assert torch.autograd.gradcheck(scan, list(tensors.values()))


class TestMemory:
    def test_any_layout(self, backend):
        tensors = inputs(6, 11, channels=4, states=2, dtype=torch.float32)
        expected = cross_selective_scan(**tensors, delta_softplus=True, backend=backend)
        for name in tensors:
            for change in (
                lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else x,
                lambda x: torch.stack((x, torch.full_like(x, torch.nan)), -1)[..., 0],
                lambda x: torch.stack((torch.full_like(x, torch.nan), x), 0)[1],
                lambda x: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x,
            ):
                changed = cross_selective_scan(
                    **(tensors | {name: change(tensors[name])}), delta_softplus=True, backend=backend
                )
                assert same(changed, expected, backend, name), name

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    def test_any_storage_offset(self, dtype, kernels):
        tensors = list(inputs(4, 16, dtype=dtype).values())
        names = ('grad', *NAMES)
        out, states = FORWARD(*tensors, True, kernels)
        arguments = [torch.randn(out.shape).to(out), *tensors]
        expected = BACKWARD(*arguments, states, True, kernels)
        for i, x in enumerate(arguments):
            moved = torch.full((x.numel() + 1,), torch.nan, dtype=x.dtype)[1:].view(x.shape).copy_(x)
            changed = [*arguments[:i], moved, *arguments[i + 1 :]]
            assert same(FORWARD(*changed[1:], True, kernels)[0], out, kernels, names[i]), names[i]
            found = BACKWARD(*changed, states, True, kernels)
            assert all(same(a, b, kernels, names[i]) for a, b in zip(found, expected, strict=True)), names[i]

    def test_rows_of_a_larger_map(self, backend):
        tensors = inputs(6, 11, dtype=torch.float32)
        larger = torch.full((2, 3, 8, 13), torch.nan)
        larger[:, :, 1:-1, 1:-1] = tensors['x']
        expected = cross_selective_scan(**tensors, delta_softplus=True, backend=backend)
        tensors['x'] = larger[:, :, 1:-1, 1:-1]
        assert torch.equal(cross_selective_scan(**tensors, delta_softplus=True, backend=backend), expected)

    def test_strided_gradient(self, backend):
        tensors = inputs(6, 11, dtype=torch.float32, requires_grad=True)
        weight = torch.randn(11, 6, 3, 2)
        ours = torch.autograd.grad(
            (cross_selective_scan(**tensors, delta_softplus=True, backend=backend).permute(3, 2, 1, 0) * weight).sum(),
            list(tensors.values()),
        )
        expected = torch.autograd.grad(
            (definition(**tensors).permute(3, 2, 1, 0) * weight).sum(), list(tensors.values())
        )
        assert all(relative_error(a, b) < 1e-6 for a, b in zip(ours, expected, strict=True))

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize('states', [1, 2])
    def test_reads_no_uninitialised_memory_and_repeats_bitwise(self, states, dtype, backend):
        tensors = inputs(9, 31, channels=18, states=states, dtype=dtype, requires_grad=True)

        def run():
            out = cross_selective_scan(**tensors, delta_softplus=True, backend=backend)
            return [out, *torch.autograd.grad(out.sum(), list(tensors.values()))]

        assert_everything_is_written(run)

    @pytest.mark.skipif(native.missing() is not None, reason=f'the compiled kernels are not here: {native.missing()}')
    def test_any_number_of_threads_gives_the_same_bits(self):
        tensors = inputs(12, 31, channels=38, states=2, rank=5, dtype=torch.float32, requires_grad=True)

        def run():
            out = cross_selective_scan(**tensors, delta_softplus=True, backend='native')
            return [out, *torch.autograd.grad(out.sum(), list(tensors.values()))]

        expected = run()
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(run(), expected, strict=True))

    def test_nothing_large_is_kept_for_the_backward(self):
        tensors = inputs(8, 8, channels=8, rank=1, dtype=torch.float32, requires_grad=True)
        kept = []

        def note(x):
            kept.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            cross_selective_scan(**tensors, delta_softplus=True)
        assert max(kept) == tensors['x'].numel()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('value', [torch.nan, torch.inf])
def test_nan_and_infinity_propagate(value, dtype, backend):
    tensors = inputs(6, 11, dtype=dtype)
    tensors['x'][0, 1, 2, 3] = value
    out = cross_selective_scan(**tensors, delta_softplus=True, backend=backend)
    assert not out[0, 1].isfinite().any()  # every pixel comes after it in some direction
    assert out[1].isfinite().all()
    assert out[0, [0, 2]].isfinite().all()


def test_nan_in_the_gradient_does_not_leak(backend):
    tensors = inputs(6, 11, dtype=torch.float32, requires_grad=True)
    grad = torch.ones(2, 3, 6, 11)
    grad[0, 1, 2, 3] = torch.nan
    out = cross_selective_scan(**tensors, delta_softplus=True, backend=backend)
    (dx,) = torch.autograd.grad(out, tensors['x'], grad)
    assert dx[0, 1].isnan().all()
    assert dx[1].isfinite().all()
    assert dx[0, [0, 2]].isfinite().all()


def test_autocast_leaves_a_float32_scan_alone(backend):
    tensors = inputs(6, 11, dtype=torch.float32, requires_grad=True)

    def run():
        out = cross_selective_scan(**tensors, delta_softplus=True, backend=backend)
        return [out, *torch.autograd.grad(out.sum(), list(tensors.values()))]

    expected = run()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = run()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.skipif(native.missing() is not None, reason=f'the compiled kernels are not here: {native.missing()}')
@pytest.mark.parametrize('states', [1, 2])
@pytest.mark.parametrize(('forth', 'back'), [('native', 'reference'), ('reference', 'native')])
def test_any_backward_reads_any_forward(forth, back, states):
    tensors = list(inputs(9, 40, states=states).values())
    out, saved = FORWARD(*tensors, True, forth)
    ours, expected = (BACKWARD(out, *tensors, saved, True, backend) for backend in (back, forth))
    assert all(relative_error(a, b) < 1e-13 for a, b in zip(ours, expected, strict=True))


def test_empty_batch(backend):
    tensors = inputs(6, 11, batch=0, dtype=torch.float32, requires_grad=True)
    out = cross_selective_scan(**tensors, delta_softplus=True, backend=backend)
    assert out.shape == (0, 3, 6, 11)
    out.sum().backward()
    for name, x in tensors.items():
        assert x.grad.shape == x.shape, name
        assert not x.grad.any(), name


class TestLibrary:
    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize('optional', [True, False])
    def test_opcheck(self, optional, dtype):
        tensors = list(inputs(3, 4, dtype=dtype, requires_grad=True).values())
        if not optional:
            tensors[6:] = [None, None]
        torch.library.opcheck(FORWARD, (*tensors, True, 'auto'))
        tensors = [x if x is None else x.detach() for x in tensors]
        out, states = FORWARD(*tensors, True, 'auto')
        torch.library.opcheck(BACKWARD, (torch.randn_like(out), *tensors, states, True, 'auto'))

    def test_one_graph_for_every_size(self):
        counter = CompileCounterWithBackend('aot_eager')

        def scan(tensors):
            return cross_selective_scan(**tensors, delta_softplus=True)

        compiled = torch.compile(scan, fullgraph=True, dynamic=True, backend=counter)
        for height, width in ((9, 13), (6, 31), (4, 3)):
            tensors = inputs(height, width, dtype=torch.float32, requires_grad=True)
            others = copy.deepcopy(tensors)
            assert torch.equal(compiled(tensors), scan(others))
        assert counter.frame_count == 1

    @pytest.mark.parametrize('rank', [1, 5])
    def test_flops(self, rank):
        tensors = inputs(5, 6, channels=8, states=3, rank=rank, batch=2, dtype=torch.float32, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            cross_selective_scan(**tensors).sum().backward()
        scan = 2 * (9 * 32 * 30 * 3 + 8 * 30 + 32 * rank * 30)
        assert counter.get_total_flops() / 2 == 3 * scan


@pytest.mark.parametrize(
    ('name', 'change', 'error', 'message'),
    [
        ('x', lambda x: x[0], ValueError, 'x of shape (batch, D, H, W) with H, W >= 1, got (3, 6, 11)'),
        ('x', lambda x: x[..., :0], ValueError, 'x of shape (batch, D, H, W) with H, W >= 1, got (2, 3, 6, 0)'),
        ('x', lambda x: x.int(), TypeError, 'x in one of'),
        ('step', lambda x: x[:, :3], ValueError, 'step of shape (2, 4, 2, 66) beside x of shape (2, 3, 6, 11)'),
        ('weight', lambda x: x[:4], ValueError, 'weight of shape (12, 2)'),
        ('weight', lambda x: x.flatten(), ValueError, 'weight of shape (4 D, R), got (24,)'),
        ('A', lambda x: x[:3], ValueError, 'A of shape (12, N) for 12 channels, got (3, 1)'),
        ('B', lambda x: x[:, 0], ValueError, 'B of shape (2, 4, 1, 66)'),
        ('C', lambda x: x.double(), TypeError, 'C in torch.float32 beside x in torch.float32, got torch.float64'),
        ('D', lambda x: x[:3], ValueError, 'D of shape (12,)'),
        ('delta_bias', lambda x: x.to('meta'), ValueError, "delta_bias on x's device cpu, got meta"),
    ],
)
def test_refuses(name, change, error, message):
    tensors = inputs(6, 11, dtype=torch.float32)
    with pytest.raises(error, match=f'^selective_scan: expected .*{re.escape(message)}'):
        cross_selective_scan(**(tensors | {name: change(tensors[name])}))
