"""The Triton kernels against the truth, on a GPU or, under TRITON_INTERPRET=1, on a CPU.

`test_triton` runs this file in its interpreter, in a process of its own, since Triton reads that variable once.
"""

import os

import pytest
import torch
from helpers import relative_error
from helpers.kernels import (
    NAMES,
    OWN_TOLERANCE,
    assert_close_to_truth,
    assert_everything_is_written,
    backward,
    forward,
    inputs,
    run,
    to,
)
from torch._dynamo.testing import CompileCounterWithBackend

from mmsparx.ops import cross_merge, cross_scan, cross_selective_scan, native, selective_scan, triton_runtime
from mmsparx.ops.selective_scan import reference, triton_backend

if not (os.environ.get(triton_runtime.INTERPRET) or torch.cuda.is_available()):
    pytest.skip('needs a GPU; test_triton runs it in the interpreter', allow_module_level=True)
if os.environ.get(triton_runtime.INTERPRET):
    from helpers import triton_interpreter

    triton_interpreter.install()

DEVICE = 'cpu' if os.environ.get(triton_runtime.INTERPRET) else 'cuda'
BACKENDS_ON = [(DEVICE, 'triton'), ('cpu', 'reference')]
CROSS_NAMES = ('x', 'step', 'weight', *NAMES[2:])
cross_forward = torch.ops.mmsparx.cross_selective_scan_fwd
cross_backward = torch.ops.mmsparx.cross_selective_scan_bwd
pytestmark = [pytest.mark.gpu] if DEVICE == 'cuda' else []
OTHERS = ['reference', *(['native'] if native.missing() is None and DEVICE == 'cpu' else [])]


def on_device(tensors, **options):
    """`run` by Triton, with the results on the CPU."""
    return to('cpu', run(to(DEVICE, tensors), 'triton', **options))


def assert_same(found, expected, tolerance=1e-6):
    for name, ours, theirs in zip(('out', 'states', *NAMES), found, expected, strict=True):
        assert relative_error(ours, theirs) <= tolerance, name


class TestTruth:
    # Lengths are around 16 positions, chunks of 64 and tiles of 128, with every alignment.
    @pytest.mark.parametrize('length', [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 196, 257])
    def test_lengths(self, length):
        assert_close_to_truth(inputs(length), 'triton', device=DEVICE)

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize('length', [1, 49, 130, 136])
    def test_16_bit(self, length, dtype):
        assert_close_to_truth(inputs(length, dtype=dtype), 'triton', device=DEVICE)

    @pytest.mark.parametrize('states', [2, 5, 16])
    def test_states(self, states):
        assert_close_to_truth(inputs(66, states=states, dim=4, groups=1), 'triton', device=DEVICE)

    # A tile takes the interpreter some milliseconds, and many states or positions a minute.
    @pytest.mark.skipif(DEVICE == 'cpu', reason='test_256_states runs in the interpreter')
    def test_64_states(self):
        assert_close_to_truth(inputs(18, states=64, dim=2, groups=1), 'triton', device=DEVICE)

    @pytest.mark.parametrize('length', [2048] if DEVICE == 'cpu' else [16384, 64000])
    def test_long_sequences(self, length):
        tensors = inputs(length, dim=2, groups=1)
        assert_same(on_device(tensors), run([x.double() for x in tensors], 'reference'), 3e-6)

    def test_256_states(self):
        tensors = inputs(2, states=256, dim=2, groups=1)
        found, expected = (forward(*to(device, tensors), True, name) for device, name in BACKENDS_ON)
        for ours, theirs in zip(found, expected, strict=True):
            assert relative_error(ours.cpu(), theirs) < 1e-6

    @pytest.mark.parametrize('states', [1, 2])
    def test_without_softplus(self, states):
        # The recurrence is only bounded if the step is positive.
        u, delta, A, B, C, D, bias = inputs(66, states=states)
        assert_close_to_truth((u, delta.abs(), A, B, C, D, bias.abs()), 'triton', softplus=False, device=DEVICE)

    # There are groups whose channels are no multiple of a program's rows, and groups with fewer channels than rows.
    @pytest.mark.parametrize(('dim', 'groups'), [(1, 1), (33, 1), (18, 2), (12, 4)])
    def test_channels(self, dim, groups):
        assert_close_to_truth(inputs(65, dim=dim, groups=groups, batch=2), 'triton', device=DEVICE)

    @pytest.mark.parametrize('absent', [(5,), (6,), (5, 6)])
    def test_without_the_optional_ones(self, absent):
        tensors = [None if i in absent else x for i, x in enumerate(inputs(66))]
        expected = run(tensors, 'reference')
        assert_same(on_device(tensors), expected)
        out, states = triton_backend.forward(*to(DEVICE, tensors), True)
        gradients = triton_backend.backward(out, *to(DEVICE, tensors), states, True)
        assert [i for i, x in enumerate(gradients) if x is None] == list(absent)

    @pytest.mark.parametrize(('length', 'states'), [(1, 1), (65, 3), (258, 1)])
    def test_double(self, length, states):
        tensors = inputs(length, states=states, batch=2, dtype=torch.float64)
        assert_same(on_device(tensors), run(tensors, 'reference'), 1e-13)

    @pytest.mark.parametrize('states', [1, 2])
    @pytest.mark.parametrize('other', OTHERS)
    def test_any_backward_reads_any_forward(self, other, states):
        tensors = to(DEVICE, inputs(300, states=states, dtype=torch.float64))
        for forth, back in (('triton', other), (other, 'triton')):
            out, saved = forward(*tensors, True, forth)
            expected = backward(out, *tensors, saved, True, forth)
            for ours, exact in zip(backward(out, *tensors, saved, True, back), expected, strict=True):
                assert relative_error(ours, exact) < 1e-13

    @pytest.mark.parametrize('around', [-80.0, -30.0, -15.0, 20.0, 300.0])
    def test_softplus(self, around):
        # There is no bias: in float32 the sum with it would lose more bits than the softplus.
        u, delta, A, B, C, _, _ = inputs(70)
        delta = delta + around
        A = A / max(around, 1)  # else the decay is 0 and no gradient reaches A and the previous state
        assert_close_to_truth((u, delta, A, B, C, None, None), 'triton', device=DEVICE)

    def test_gradcheck(self):
        tensors = [x.requires_grad_() for x in to(DEVICE, inputs(6, states=2, dim=2, dtype=torch.float64))]

        def scan(*values):
            return selective_scan(*values[:6], delta_bias=values[6], delta_softplus=True, backend='triton')

        assert torch.autograd.gradcheck(scan, tensors, fast_mode=True)


class TestExtremes:
    @pytest.mark.parametrize(
        ('value', 'dtype'),
        [*((value, torch.float32) for value in (torch.nan, torch.inf, -torch.inf)), (torch.nan, torch.bfloat16)],
    )
    @pytest.mark.parametrize('index', [0, 1, 3, 4])
    def test_values_that_are_not_finite_stay_so_and_do_not_leak(self, index, value, dtype):
        clean = inputs(130, states=2, dtype=dtype)
        dirty = list(clean)
        dirty[index] = clean[index].clone()
        dirty[index][0, 1, ..., 66] = value  # a channel of u and delta; a group, hence 4 channels, of B and C
        out, expected = (forward(*to(DEVICE, x), True, 'triton')[0].cpu() for x in (dirty, clean))
        truth, _ = forward(*(x.double() for x in dirty), True, 'reference')
        channels = slice(4, 8) if index > 2 else slice(1, 2)
        touched = torch.zeros_like(out, dtype=torch.bool)
        touched[0, channels, 66:] = True
        assert torch.equal(out[~touched], expected[~touched])
        # Decays are multiplied first: infinity may become NaN, but nothing becomes finite.
        assert torch.equal(out.isfinite(), truth.isfinite())
        assert out.isnan()[truth.isnan()].all()

    def test_nan_in_the_gradient_does_not_leak(self):
        tensors = inputs(130)
        grad = torch.ones(1, 8, 130)
        grad[0, 1, 66] = torch.nan
        du = on_device(tensors, grad=grad)[2]
        assert du[0, 1, :67].isnan().all()
        du[0, 1, :67] = 0
        assert du.isfinite().all()

    def test_decay_above_one_overflows_to_infinity(self):
        u, delta, A, B, C, D, bias = inputs(40)
        tensors = (u, delta + 100, A.abs() + 1, B, C, D, bias)
        out, expected = on_device(tensors)[0], run(tensors, 'reference')[0]
        assert torch.equal(out.isfinite(), expected.isfinite())
        assert not out.isfinite().all()

    def test_decays_whose_product_overflows_alone(self):
        # e^(0.8 * 120) is infinite, 1e-30 times that is not.
        u, delta, A, B, C, D, _ = inputs(120)
        tensors = (u * 1e-30, torch.full_like(delta, 0.8), torch.ones_like(A), B, C * 1e-30, D, None)
        doubles = [x if x is None else x.double() for x in tensors]
        found = on_device(tensors, softplus=False)
        for ours, exact in zip(found, run(doubles, 'reference', False), strict=True):
            assert ours.isfinite().all()
            assert relative_error(ours, exact) < 1e-4

    @pytest.mark.parametrize('length', [1, 17, 64])
    def test_a_state_that_forgets_at_once(self, length):
        # A = -inf: the decay is 0, but beyond the end, where the step is 0, it must not be exp(0 * inf).
        u, delta, A, B, C, D, bias = inputs(length)
        tensors = (u, delta, torch.full_like(A, -torch.inf), B, C, D, bias)
        for ours, expected in zip(on_device(tensors), run(tensors, 'reference'), strict=True):
            assert torch.equal(ours.isnan(), expected.isnan())
            assert relative_error(ours.nan_to_num(), expected.nan_to_num()) < 1e-6

    def test_an_infinite_bias_does_not_reach_the_final_state_from_beyond_the_end(self):
        tensors = list(inputs(1))
        tensors[6] = torch.full_like(tensors[6], torch.inf)
        found, expected = on_device(tensors)[1], run(tensors, 'reference')[1]
        assert torch.equal(found, expected)
        assert found[:, :, 1].isinf().all()

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_rounding_to_16_bits_is_torchs(self, dtype):
        # The output is D u, and nothing else.
        generator = torch.Generator().manual_seed(0)
        u = torch.randn(1, 8, 512, generator=generator).mul(2.0 ** torch.arange(-28, 20, 6).view(8, 1)).to(dtype)
        zero = torch.zeros(1, 1, 1, u.shape[2], dtype=dtype)
        D = torch.rand(8, generator=generator)
        tensors = to(DEVICE, (u, torch.zeros_like(u), torch.zeros(8, 1), zero, zero, D, None))
        out, _ = forward(*tensors, False, 'triton')
        assert torch.equal(out.cpu(), (u.float() * D.view(8, 1)).to(dtype))


def moved(x):
    """A copy at an address that is not a multiple of 16."""
    storage = torch.full((x.numel() + 3,), torch.nan, dtype=x.dtype, device=x.device)
    return storage[3:].view(x.shape).copy_(x)


def inner(x):
    """A part of a larger tensor along every dimension."""
    larger = torch.full([n + 2 for n in x.shape], torch.nan, dtype=x.dtype, device=x.device)
    return larger[tuple(slice(1, -1) for _ in x.shape)].copy_(x)


def transposed(x):
    return x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else x


def every_other(x):
    return torch.stack((x, torch.full_like(x, torch.nan)), -1).flatten(-2)[..., ::2]


class TestMemory:
    @pytest.mark.parametrize('change', [moved, inner, transposed, every_other])
    def test_any_layout(self, change):
        tensors = inputs(68, states=2, batch=2, dim=4)
        changed = [change(x) for x in to(DEVICE, tensors)]
        grad = change(torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1)).to(DEVICE))
        found = to('cpu', run(changed, 'triton', grad=grad))
        assert_same(found, run(tensors, 'reference'))

    def test_broadcast_inputs(self):
        u, delta, A, B, C, D, bias = inputs(66, batch=2, dim=4, groups=1)
        row = B[:1, :, :, :1].expand_as(B)  # all strides but the last are 0
        tensors = (u, delta[:1].expand_as(delta), A, row, C[:1].expand_as(C), D, bias)
        assert_same(on_device(tensors), run(tensors, 'reference'))

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize('length', [1, 49, 68])
    def test_nothing_beyond_the_inputs_ends_is_used_or_changed(self, length, dtype):
        # All inputs are in one storage with NaN between them; a read beyond an end would show in the results.
        tensors = inputs(length, states=2, dim=6, dtype=dtype)

        def guarded(x):
            storage = torch.full((x.numel() + 128,), torch.nan, dtype=x.dtype, device=x.device)
            return storage[64:-64].view(x.shape).copy_(x)

        inside = [guarded(x) for x in to(DEVICE, tensors)]
        for ours, expected in zip(to('cpu', run(inside, 'triton')), on_device(tensors), strict=True):
            assert torch.equal(ours, expected)
            assert ours.isfinite().all()
        for x in inside:
            storage = torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage())
            assert storage[:64].isnan().all()
            assert storage[-64:].isnan().all()

    @pytest.mark.parametrize('states', [1, 3])  # 3 of a padded 4
    def test_reads_no_uninitialised_memory(self, states):
        tensors = inputs(66, states=states, dim=6)
        assert_everything_is_written(lambda: on_device(tensors))

    def test_repeats_bitwise(self):
        tensors = inputs(66, states=2, dim=40)
        first = on_device(tensors)
        assert all(torch.equal(a, b) for a, b in zip(first, on_device(tensors), strict=True))

    def test_inputs_are_left_alone(self):
        tensors = to(DEVICE, inputs(66))
        before = [x.clone() for x in tensors]
        run(tensors, 'triton')
        assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))

    def test_empty_batch(self):
        tensors = inputs(65, states=2, batch=0)
        for ours, expected in zip(on_device(tensors), run(tensors, 'reference'), strict=True):
            assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
            assert not ours.any()

    def test_saved_states(self):
        tensors = inputs(150, states=2, dtype=torch.float64)
        states, expected = (x[1] for x in (on_device(tensors), run(tensors, 'reference')))
        assert states.shape[2] == reference.state_count(150) == 4
        assert not states[:, :, 0].any()
        assert relative_error(states, expected) < 1e-13


def maps(height, width, channels=5, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64).to(dtype)


def sequences(height, width, channels=5, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, channels, height * width, generator=generator, dtype=torch.float64).to(dtype)


def in_sequences(x):
    return triton_backend.to_sequences(x.to(DEVICE)).cpu()


def in_maps(y, height, width):
    return triton_backend.from_sequences(y.to(DEVICE), height, width).cpu()


# Shapes are parts of tiles, whole tiles and several, with every alignment; more channels than a tile has, and fewer.
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ('height', 'width', 'channels'),
    [(1, 1, 9), (1, 9, 3), (9, 1, 1), (7, 7, 10), (14, 10, 3), (16, 40, 2), (33, 65, 1), (64, 36, 1)],
)
class TestReordering:
    def test_map_to_sequences(self, height, width, channels, dtype):
        x = maps(height, width, channels, dtype=dtype)
        found = in_sequences(x)
        assert found.is_contiguous()
        assert torch.equal(found, cross_scan(x))

    def test_sum_of_sequences_is_rounded_once(self, height, width, channels, dtype):
        y = sequences(height, width, channels, dtype=dtype)
        found = in_maps(y, height, width)
        assert (found.dtype, found.is_contiguous()) == (dtype, True)
        wide = y if dtype == torch.float64 else y.float()
        assert torch.equal(found, cross_merge(wide, height, width).to(dtype))
        if dtype in OWN_TOLERANCE:
            truth = cross_merge(y.double(), height, width)
            half_unit = torch.finfo(dtype).eps / 4 * torch.exp2(torch.frexp(truth).exponent)
            assert ((found.double() - truth).abs() <= half_unit * 1.001).all()


class TestReorderedMemory:
    @pytest.mark.parametrize(
        'change',
        [
            moved,
            inner,
            transposed,
            every_other,
            lambda x: x.contiguous(memory_format=torch.channels_last),
            lambda x: inner(x.flatten(2)).unflatten(2, x.shape[2:]),  # rows that are no multiple of 16 bytes apart
            lambda x: torch.cat((x * torch.nan, x, x * torch.nan), 1)[:, x.shape[1] : -x.shape[1]],
        ],
    )
    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    def test_any_layout(self, change, dtype):
        x = maps(12, 20, dtype=dtype).to(DEVICE)
        changed = change(x)
        assert torch.equal(changed, x)
        assert torch.equal(in_sequences(changed), cross_scan(x).cpu())

    @pytest.mark.parametrize('shape', [(1, 5, 12, 20), (2, 1, 12, 20), (2, 5, 1, 1)])
    def test_broadcast_maps(self, shape):
        x = maps(12, 20)[tuple(slice(n) for n in shape)].expand(2, 5, 12, 20)
        assert torch.equal(in_sequences(x), cross_scan(x))

    def test_maps_in_one_piece_are_not_copied(self, monkeypatch):
        read = []
        launch = triton_backend._reorder

        def note(kernel, tensors, *others):
            read.append(tensors[0].data_ptr())
            launch(kernel, tensors, *others)

        monkeypatch.setattr(triton_backend, '_reorder', note)
        x = maps(6, 8, 9).to(DEVICE)
        apart = [x, x[:, 2:5], x.transpose(0, 1), x[1:, ::2]]
        for view in apart:
            triton_backend.to_sequences(view)
        assert read == [view.data_ptr() for view in apart]

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    def test_nothing_beyond_the_ends_is_used_or_changed(self, dtype):
        for size in ((7, 7), (12, 20)):
            x, y = maps(*size, dtype=dtype).to(DEVICE), sequences(*size, dtype=dtype).to(DEVICE)
            for tensor, run_one in ((x, in_sequences), (y, lambda y, size=size: in_maps(y, *size))):
                storage = torch.full((tensor.numel() + 4096,), torch.nan, dtype=dtype, device=DEVICE)
                within = storage[2048:-2048].view(tensor.shape).copy_(tensor)
                assert torch.equal(run_one(within), run_one(tensor))
                assert torch.equal(within, tensor)
                assert storage[:2048].isnan().all()
                assert storage[-2048:].isnan().all()

    def test_everything_is_written_and_repeats_bitwise(self):
        x, y = maps(7, 12), sequences(7, 12)
        assert_everything_is_written(lambda: [in_sequences(x), in_maps(y, 7, 12)])

    def test_no_maps(self):
        x = maps(3, 4, batch=0)
        assert in_sequences(x).shape == (0, 4, 5, 12)
        assert in_maps(sequences(3, 4, batch=0), 3, 4).shape == x.shape


def map_inputs(height, width, channels=3, states=1, batch=1, dtype=torch.float32):
    """x, step, weight, A, B, C, D and delta_bias, as the operator takes them."""
    length = height * width
    _, _, *others = inputs(length, dim=4 * channels, states=states, groups=4, batch=batch, dtype=dtype)
    step = sequences(height, width, 2, batch, dtype)
    weight = maps(1, 2, 4 * channels, 1, dtype).view(4 * channels, 2)
    return [maps(height, width, channels, batch, dtype), step, weight, *others]


def run_map(tensors, backend):
    """out, the saved states, and the gradients of all inputs for a gradient that only depends on the shape."""
    out, states = cross_forward(*tensors, True, backend)
    grad = maps(*out.shape[2:], out.shape[1], out.shape[0]).flip(-1).to(out)
    return [out, states, *cross_backward(grad, *tensors, states, True, backend)]


class TestScanOfAMap:
    @pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
    @pytest.mark.parametrize(('height', 'width'), [(1, 1), (5, 7), (12, 6)])
    def test_definition(self, height, width, dtype, tolerance):
        tensors = map_inputs(height, width, batch=2, dtype=dtype)
        truth = run_map([x.double() for x in tensors], 'reference')
        found = to('cpu', run_map(to(DEVICE, tensors), 'triton'))
        for name, ours, exact in zip(('out', 'states', *CROSS_NAMES), found, truth, strict=True):
            assert relative_error(ours, exact) < tolerance, name

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_16_bit(self, dtype):
        # delta and the four sequences are rounded, each to half a unit in the last place; their sum once more.
        tensors = map_inputs(5, 8, dtype=dtype)
        truth = run_map([x.double() for x in tensors], 'reference')
        found = to('cpu', run_map(to(DEVICE, tensors), 'triton'))
        for name, ours, exact in zip(('out', 'states', *CROSS_NAMES), found, truth, strict=True):
            assert relative_error(ours, exact) < 2 * OWN_TOLERANCE[dtype], name

    def test_layout_of_the_map_and_the_gradient(self):
        tensors = to(DEVICE, map_inputs(5, 8, batch=2))
        _, states = cross_forward(*tensors, True, 'triton')
        expected = cross_backward(tensors[0], *tensors, states, True, 'triton')
        x = tensors[0].contiguous(memory_format=torch.channels_last)
        found = cross_backward(x, x, *tensors[1:], states, True, 'triton')
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    def test_autocast_leaves_it_alone(self):
        tensors = to(DEVICE, map_inputs(3, 4))
        expected = run_map(tensors, 'triton')
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            found = run_map(tensors, 'triton')
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    def test_without_the_optional_ones_and_without_a_batch(self):
        tensors = [*to(DEVICE, map_inputs(3, 4, batch=0))[:6], None, None]
        out, states, *gradients = run_map(tensors, 'triton')
        assert (out.shape, states.shape) == ((0, 3, 3, 4), (0, 12, 2, 1))
        assert [x.shape for x in gradients] == [(0,) if x is None else x.shape for x in tensors]
        assert not any(x.any() for x in gradients)

    def test_opcheck(self):
        tensors = to(DEVICE, map_inputs(2, 3))
        torch.library.opcheck(cross_forward.default, ([*(x.clone().requires_grad_() for x in tensors), True, 'triton']))
        out, states = cross_forward(*tensors, True, 'triton')
        torch.library.opcheck(cross_backward.default, (torch.randn_like(out), *tensors, states, True, 'triton'))

    def test_one_graph_for_every_size(self):
        def scan(*tensors):
            return cross_selective_scan(*tensors, delta_softplus=True, backend='triton')

        counter = CompileCounterWithBackend('aot_eager')
        compiled = torch.compile(scan, fullgraph=True, dynamic=True, backend=counter)
        for size in ((6, 11), (4, 3)):
            leaves = [x.requires_grad_() for x in to(DEVICE, map_inputs(*size))]
            for ours, expected in zip(
                *(torch.autograd.grad(f(*leaves).square().sum(), leaves) for f in (compiled, scan)), strict=True
            ):
                assert relative_error(ours, expected) < 1e-6
        assert counter.frame_count == 1


class TestOperator:
    @pytest.mark.parametrize('optional', [True, False])
    def test_opcheck(self, optional):
        tensors = to(DEVICE, inputs(9, states=2, dim=4))
        tensors = tensors if optional else [*tensors[:5], None, None]
        leaves = [None if x is None else x.clone().requires_grad_() for x in tensors]
        torch.library.opcheck(forward.default, (*leaves, True, 'triton'))
        out, states = forward(*tensors, True, 'triton')
        torch.library.opcheck(backward.default, (torch.randn_like(out), *tensors, states, True, 'triton'))

    def test_one_graph_for_every_length(self):
        def scan(u, delta, A, B, C, D, bias):
            return selective_scan(u, delta, A, B, C, D, delta_bias=bias, delta_softplus=True, backend='triton')

        counter = CompileCounterWithBackend('aot_eager')
        compiled = torch.compile(scan, fullgraph=True, dynamic=True, backend=counter)
        for length in (130, 65, 9):
            leaves = [x.requires_grad_() for x in to(DEVICE, inputs(length, dim=4))]
            for ours, expected in zip(
                *(torch.autograd.grad(f(*leaves).square().sum(), leaves) for f in (compiled, scan)), strict=True
            ):
                assert relative_error(ours, expected) < 1e-6
        assert counter.frame_count == 1

    def test_launches_on_the_inputs_device(self):
        if DEVICE == 'cpu' or torch.cuda.device_count() < 2:
            pytest.skip('needs two GPUs')
        tensors = inputs(65)
        assert torch.cuda.current_device() == 0
        assert_same(to('cpu', run(to('cuda:1', tensors), 'triton')), on_device(tensors), 0)
        ours, expected = (run_map(to(device, map_inputs(5, 8)), 'triton') for device in ('cuda:1', 'cuda:0'))
        assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(ours, expected, strict=True))
