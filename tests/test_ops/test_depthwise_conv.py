"""The depthwise convolution: results against float64, cases left to torch, and the operator in torch's tools."""

import warnings
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from helpers import kernels, relative_error
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from mmsparx.ops import backends as common
from mmsparx.ops import depthwise_conv2d, native
from mmsparx.ops.depthwise_conv import available_backends, backends, triton_backend

ACTIVATIONS = {'none': lambda z: z, 'gelu': F.gelu, 'silu': F.silu}
KINDS = list(product((3, 5), (False, True), ACTIVATIONS))
# These are the rounding of the output, and in float32 that of sums of terms that cancel.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
# Sizes are around vectors of 4, 8 and 16 lanes and blocks of 4 rows; the maps are those of an image of 224 x 224.
SHAPES = [
    (2, 3, 1, 1),
    (1, 2, 1, 5),
    (1, 2, 2, 17),
    (2, 2, 3, 16),
    (1, 3, 4, 15),
    (1, 2, 5, 33),
    (2, 2, 7, 7),
    (1, 2, 14, 14),
    (1, 2, 56, 56),
]


@pytest.fixture(params=kernels.on_cpus())
def backend(request):
    """The name for `backend=` of everything that can run."""
    name, _, instruction_set = request.param.partition('-')
    if not instruction_set:
        yield name
        return
    with native.use_instruction_set(instruction_set):
        yield name


def inputs(shape=(2, 3, 6, 7), side=3, dtype=torch.float32, bias=True, seed=0):
    """x, weight and bias."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [shape, (shape[1], 1, side, side), (shape[1],)]
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]
    return tensors if bias else [*tensors[:2], None]


def by_torch(x, weight, bias, *, residual, activation):
    z = F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[1])
    return ACTIVATIONS[activation](x + z if residual else z)


def run(function, tensors, rounded=None):
    """The output and the gradients of all inputs, for a gradient of that type that only depends on the shape."""
    leaves = [None if x is None else x.detach().requires_grad_() for x in tensors]
    out = function(*leaves)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grad = grad.to(rounded or out.dtype).to(out.dtype)
    found = torch.autograd.grad(out, [x for x in leaves if x is not None], grad)
    return [out, *found]


def assert_close_to_truth(tensors, kind, backend, tolerance=None):
    """Assert agreement with float64 on the same inputs."""
    _, residual, activation = kind
    options = dict(residual=residual, activation=activation)
    truth = run(partial(by_torch, **options), [None if x is None else x.double() for x in tensors], tensors[0].dtype)
    found = run(partial(depthwise_conv2d, **options, backend=backend), tensors)
    for name, ours, exact in zip(('out', 'x', 'weight', 'bias'), found, truth, strict=False):
        assert relative_error(ours, exact) <= (tolerance or TOLERANCE[ours.dtype]), name
    assert len(found) == len(truth)


class TestTruth:
    @pytest.mark.parametrize('kind', KINDS, ids=str)
    @pytest.mark.parametrize('shape', SHAPES, ids=str)
    def test_shapes(self, shape, kind, backend):
        assert_close_to_truth(inputs(shape, kind[0]), kind, backend)

    @pytest.mark.parametrize('kind', [(3, True, 'gelu'), (5, False, 'silu')], ids=str)
    @pytest.mark.parametrize('shape', [(1, 2, 300, 41), (1, 1, 9, 2500)], ids=str)
    def test_planes_in_several_frames(self, shape, kind, backend):
        # torch adds up all positions in float32.
        assert_close_to_truth(inputs(shape, kind[0]), kind, backend, 1e-5 if backend == 'reference' else None)

    @pytest.mark.parametrize('kind', [(3, True, 'gelu'), (5, False, 'none')], ids=str)
    def test_maps_of_several_programs(self, kind, backend, monkeypatch):
        """Each of Triton's programs has rows, columns, channels and samples, and none of them fills it."""
        if backend != 'triton':
            pytest.skip('the other backends split maps in their own way')
        monkeypatch.setattr(triton_backend, 'tile', lambda *_: (8, 2, 3))
        monkeypatch.setattr(triton_backend, 'samples_of_a_program', lambda *_: 2)
        assert_close_to_truth(inputs((3, 3, 4, 9), kind[0]), kind, backend)

    @pytest.mark.parametrize('kind', KINDS, ids=str)
    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_16_bit(self, dtype, kind, backend):
        # torch rounds after each of the three steps, and the gradients of 16-bit parameters after each sum.
        tolerance = 2e-2 if backend == 'reference' else None
        tensors = inputs((2, 3, 9, 18), kind[0], dtype)
        assert_close_to_truth(tensors, kind, backend, tolerance)
        # The parameters are in float32, as under autocast.
        mixed = [tensors[0], tensors[1].float(), tensors[2].float()]
        out, dx, dweight, dbias = run(
            partial(depthwise_conv2d, residual=kind[1], activation=kind[2], backend=backend), mixed
        )
        assert (out.dtype, dx.dtype, dweight.dtype, dbias.dtype) == (dtype, dtype, torch.float32, torch.float32)

    @pytest.mark.parametrize('kind', KINDS, ids=str)
    def test_double(self, kind, backend):
        assert_close_to_truth(inputs((2, 2, 5, 9), kind[0], torch.float64), kind, backend)

    def test_without_a_bias(self, backend):
        assert_close_to_truth(inputs(bias=False), (3, True, 'gelu'), backend)

    @pytest.mark.parametrize('shape', [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)], ids=str)
    def test_nothing(self, shape, backend):
        out, dx, dweight, dbias = run(partial(depthwise_conv2d, activation='gelu', backend=backend), inputs(shape))
        assert (out.shape, dx.shape) == (shape, shape)
        assert not dweight.any()
        assert not dbias.any()

    @pytest.mark.parametrize('activation', ['gelu', 'silu'])
    def test_activations_far_from_zero(self, activation, backend):
        """Values are exact to a few units in the last place, where torch's GELU cancels."""
        count = 161 if backend == 'triton' else 4001  # a map takes the interpreter milliseconds
        z = torch.cat([torch.linspace(-8, 8, count), torch.tensor([-80.0, -30.0, 0.0, 30.0, 80.0, torch.nan])])
        weight = torch.zeros(len(z), 1, 3, 3)
        x = z.view(1, -1, 1, 1).requires_grad_()  # each value is a map: 0 times NaN is NaN
        out = depthwise_conv2d(x, weight, residual=True, activation=activation, backend=backend)
        (slope,) = torch.autograd.grad(out.sum(), x)
        exact = z.double().requires_grad_()
        without_cancellation = exact * 0.5 * torch.special.erfc(-exact * 0.5**0.5)
        truth = without_cancellation if activation == 'gelu' else F.silu(exact)
        (true_slope,) = torch.autograd.grad(truth.sum(), exact)
        out, slope = out.flatten(), slope.flatten()
        assert torch.equal(out.isnan(), z.isnan())
        assert (slope - true_slope).nan_to_num().abs().max() < (4e-7 if backend == 'native' else 1e-6)
        if backend == 'native':
            normal = truth.abs() > 1e-30
            assert ((out - truth) / truth)[normal].abs().max() < 3e-6
            assert ((out - truth) / truth)[normal & (z.abs() < 3)].abs().max() < 8e-7

    def test_values_that_are_not_finite_stay_so(self, backend):
        x, weight, bias = inputs((1, 1, 6, 40))
        x[0, 0, 2, 20] = torch.inf
        out = depthwise_conv2d(x, weight, bias, backend=backend)
        assert torch.equal(out.isfinite(), by_torch(x, weight, bias, residual=False, activation='none').isfinite())


class TestMemory:
    @pytest.mark.parametrize('kind', [(3, True, 'gelu'), (5, False, 'silu')], ids=str)
    def test_layouts(self, kind, backend):
        """Tests channels last, inner parts of larger tensors, transposed maps, expanded gradients."""
        x, weight, bias = inputs((2, 6, 8, 9), kind[0])
        function = partial(depthwise_conv2d, residual=kind[1], activation=kind[2], backend=backend)
        ways = [
            (x, lambda x: x.to(memory_format=torch.channels_last)),
            (x[:, ::2], lambda x: x),
            (x[:, 1:4], lambda x: x),
            (x[..., 1:8], lambda x: x),
            (x.transpose(2, 3), lambda x: x),
            (x[:1].expand(2, -1, -1, -1), lambda x: x),
        ]
        for given, change in ways:
            channels = given.shape[1]
            parameters = weight[:channels], bias[:channels]
            expected = run(function, [given.contiguous(), *parameters])
            for ours, theirs in zip(run(function, [change(given), *parameters]), expected, strict=True):
                assert relative_error(ours, theirs) < 3e-7
                assert ours.is_contiguous() or ours is not expected[0]
        leaf = x.clone().requires_grad_()
        function(leaf, weight, bias).sum().backward()  # a gradient whose strides are 0
        ones = x.clone().requires_grad_()
        function(ones, weight, bias).backward(torch.ones_like(x))
        assert relative_error(leaf.grad, ones.grad) < 3e-7

    @pytest.mark.parametrize('activation', ACTIVATIONS)
    def test_kept_for_the_backward(self, activation):
        """Only x and the parameters are kept, which exist anyway."""
        tensors = [x.requires_grad_() for x in inputs()]
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.data_ptr()) or x, lambda x: x):
            depthwise_conv2d(*tensors, residual=True, activation=activation)
        assert set(kept) == {x.data_ptr() for x in tensors}

    @pytest.mark.parametrize('kind', [(3, True, 'gelu'), (5, False, 'silu')], ids=str)
    def test_the_same_bits_for_any_number_of_threads(self, kind, backend):
        if backend != 'native':
            pytest.skip(f'{backend} has no threads of its own')
        tensors = inputs((2, 37, 30, 30), kind[0])
        function = partial(depthwise_conv2d, residual=kind[1], activation=kind[2], backend=backend)
        expected = run(function, tensors)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(run(function, tensors), expected, strict=True))

    @pytest.mark.parametrize('kind', [(3, True, 'gelu'), (5, False, 'silu')], ids=str)
    def test_everything_is_written_and_repeats_bitwise(self, kind, backend):
        tensors = inputs((2, 3, 9, 7), kind[0])
        function = partial(depthwise_conv2d, residual=kind[1], activation=kind[2], backend=backend)
        kernels.assert_everything_is_written(lambda: run(function, tensors))


class TestTorch:
    """The operator in torch's tools."""

    @pytest.mark.parametrize('kind', KINDS, ids=str)
    def test_gradcheck(self, kind, backend):
        side, residual, activation = kind
        tensors = [x.requires_grad_() for x in inputs((2, 2, 3, 4), side, torch.float64)]
        function = partial(depthwise_conv2d, residual=residual, activation=activation, backend=backend)
        assert torch.autograd.gradcheck(function, tensors, check_forward_ad=True, fast_mode=True)
        if side == 3:
            assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)

    @pytest.mark.parametrize(('dtype', 'bias'), [(torch.float32, True), (torch.bfloat16, False)])
    def test_opcheck(self, dtype, bias, backend):
        x, weight, b = (None if x is None else x.requires_grad_() for x in inputs(dtype=dtype, bias=bias))
        opcheck(torch.ops.mmsparx.depthwise_conv2d, (x, weight, b, True, 'gelu', backend))
        grad = torch.randn(x.shape, dtype=dtype, requires_grad=True)
        opcheck(torch.ops.mmsparx.depthwise_conv2d_bwd, (grad, x, weight, b, False, 'silu', backend))

    def test_func(self):
        x, weight, bias = inputs((3, 2, 4, 5), dtype=torch.float64)
        function = partial(depthwise_conv2d, residual=True, activation='gelu')
        found = torch.vmap(lambda x: function(x[None], weight, bias)[0])(x)
        assert relative_error(found, function(x, weight, bias)) < 1e-13
        loss = lambda weight, x: function(x[None], weight, bias).square().sum()
        found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, x)
        for one, sample in zip(found, x, strict=True):
            assert relative_error(one, torch.func.grad(loss)(weight, sample)) < 1e-13

    @pytest.mark.parametrize('dynamic', [False, True])
    def test_compiled(self, dynamic):
        function = partial(depthwise_conv2d, residual=True, activation='gelu')
        compiled = torch.compile(function, fullgraph=True, backend='aot_eager', dynamic=dynamic)
        for shape in ((2, 3, 6, 7), (1, 3, 9, 5)):
            tensors = inputs(shape)
            for ours, theirs in zip(run(compiled, tensors), run(function, tensors), strict=True):
                assert torch.equal(ours, theirs)

    def test_compiled_under_autocast(self):
        compiled = torch.compile(partial(depthwise_conv2d, activation='silu'), fullgraph=True, backend='aot_eager')
        tensors = inputs()
        with torch.autocast('cpu', torch.bfloat16):
            assert torch.equal(compiled(*tensors), depthwise_conv2d(*tensors, activation='silu'))

    @pytest.mark.parametrize('residual', [False, True])
    def test_autocast(self, residual, backend):
        tensors = inputs((2, 3, 9, 12))
        with torch.autocast('cpu', torch.bfloat16):
            options = dict(residual=residual, activation='gelu')
            expected = by_torch(*tensors, **options)
            out, *gradients = run(partial(depthwise_conv2d, **options, backend=backend), tensors)
        assert out.dtype == expected.dtype
        assert relative_error(out, expected) < 1e-2
        assert {x.dtype for x in gradients} == {torch.float32}
        truth = by_torch(*(x.double() for x in tensors), **options)
        assert relative_error(out, truth) < (TOLERANCE[out.dtype] if residual else 8e-3)  # x is rounded, too

    def test_flops_are_the_convolutions(self):
        with FlopCounterMode(display=False) as ours:
            depthwise_conv2d(*inputs(), residual=True, activation='gelu')
        with FlopCounterMode(display=False) as theirs:
            by_torch(*inputs(), residual=True, activation='gelu')
        assert ours.get_total_flops() == theirs.get_total_flops() == 2 * 2 * 3 * 6 * 7 * 9
        # The backward counts twice as much as the forward; torch's formula ignores the groups of a weight's gradient.
        with FlopCounterMode(display=False) as both:
            run(partial(depthwise_conv2d, residual=True, activation='gelu'), inputs())
        assert both.get_total_flops() == 3 * ours.get_total_flops()


class TestOtherCases:
    """Other cases run torch's operations, with the same result."""

    @pytest.mark.parametrize(
        ('sizes', 'options'),
        [
            (dict(side=3), dict(stride=2)),
            (dict(side=3), dict(dilation=2)),
            (dict(side=5), dict(padding=0)),
            (dict(side=1), {}),
            (dict(side=7), {}),
            (dict(side=3, multiplier=2), {}),
        ],
        ids=str,
    )
    def test_windows(self, sizes, options):
        multiplier, side = sizes.get('multiplier', 1), sizes['side']
        x = torch.randn(2, 3, 9, 8)
        weight, bias = torch.randn(3 * multiplier, 1, side, side), torch.randn(3 * multiplier)
        found = depthwise_conv2d(x, weight, bias, activation='silu', **options)
        conv = dict(padding=options.get('dilation', 1) * (side // 2)) | options
        assert torch.equal(found, F.silu(F.conv2d(x, weight, bias, groups=3, **conv)))
        with pytest.raises(RuntimeError, match="'native', asked for by backend=, cannot run: expected"):
            depthwise_conv2d(x, weight, bias, backend='native', **options)

    def test_a_rectangular_window(self):
        x, weight = torch.randn(1, 2, 5, 6), torch.randn(2, 1, 3, 5)
        found = depthwise_conv2d(x, weight, residual=True)
        assert torch.equal(found, x + F.conv2d(x, weight, padding=(1, 2), groups=2))

    def test_a_map_without_a_batch(self):
        x, weight, bias = inputs((1, 2, 5, 6))
        found = depthwise_conv2d(x[0], weight, bias, residual=True)
        assert relative_error(found, depthwise_conv2d(x, weight, bias, residual=True)[0]) < 3e-7

    def test_other_devices_have_no_operator(self):
        x, weight, bias = (x.to('meta') for x in inputs())
        with FlopCounterMode(display=False) as counter:
            assert depthwise_conv2d(x, weight, bias, activation='gelu').shape == x.shape
        assert counter.get_total_flops() == 2 * x.numel() * 9
        with pytest.raises(RuntimeError, match='cannot run: it has kernels for cpu and cuda, got tensors on meta'):
            depthwise_conv2d(x, weight, bias, backend='native')


class TestMessages:
    def test_activation(self):
        with pytest.raises(ValueError, match="unknown activation 'relu'; known ones: none, gelu, silu"):
            depthwise_conv2d(*inputs(), activation='relu')

    def test_backend(self):
        known = ', '.join(['auto', *available_backends()])
        with pytest.raises(
            ValueError, match=f"unknown depthwise-convolution backend 'x', asked for by backend=; known ones: {known}$"
        ):
            depthwise_conv2d(*inputs(), backend='x')

    def test_a_residual_of_another_shape(self):
        with pytest.raises(ValueError, match=r'its residual, \(2, 3, 6, 7\), got \(2, 3, 3, 4\); leave residual out'):
            depthwise_conv2d(*inputs(), stride=2, residual=True)

    @pytest.mark.skipif(native.missing() is not None, reason=f'the compiled kernels are not here: {native.missing()}')
    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (lambda x, w, b: (x[0], w, b), r'expected x of shape \(batch, channels, H, W\)'),
            (lambda x, w, b: (x.int(), w, b), 'expected x in Double, Float'),
            (lambda x, w, b: (x, w[:2], b), r'expected weight of shape \(3, 1, 3, 3\) or \(3, 1, 5, 5\)'),
            (lambda x, w, b: (x, w[..., :2], b), 'expected weight of shape'),
            (lambda x, w, b: (x, w, b[:2]), r'expected bias of shape \(3\)'),
        ],
    )
    def test_the_kernels_protect_memory(self, change, message):
        tensors = inputs()
        with pytest.raises(RuntimeError, match=f'^depthwise_conv2d: {message}'):
            torch.ops.mmsparx.depthwise_conv2d_native(*change(*tensors), False, 'none')
        with pytest.raises(RuntimeError, match=r'^depthwise_conv2d: expected grad of '):
            torch.ops.mmsparx.depthwise_conv2d_bwd_native(tensors[0][1:], *tensors, False, 'none')
        with pytest.raises(RuntimeError, match=r'^depthwise_conv2d: expected the activation none, gelu or silu'):
            torch.ops.mmsparx.depthwise_conv2d_native(*tensors, False, 'relu')


class TestChoice:
    @pytest.fixture(autouse=True)
    def _fresh(self, monkeypatch):
        monkeypatch.delenv(backends.VARIABLE, raising=False)
        monkeypatch.setattr(common, '_warned', set())

    def test_without_compiled_kernels(self, monkeypatch):
        """The reference runs with a warning of its own, once."""
        without = common.Backend('native', None, None, lambda: 'it was not compiled', devices=('cpu',))
        monkeypatch.setattr(backends, 'BACKENDS', [without, backends.BACKENDS[-1]])
        warning = "depthwise convolution runs on the slower 'reference' backend, because 'native' cannot: it was not"
        with pytest.warns(UserWarning, match=warning):
            out = depthwise_conv2d(*inputs(), activation='gelu')
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert_close_to_truth(inputs(), (3, True, 'gelu'), 'auto')
        assert torch.equal(out, depthwise_conv2d(*inputs(), activation='gelu', backend='reference'))
        with pytest.raises(RuntimeError, match="backend 'native', asked for by backend=, cannot run: it was not compi"):
            depthwise_conv2d(*inputs(), backend='native')

    def test_by_environment(self, monkeypatch):
        monkeypatch.setenv(backends.VARIABLE, 'nonesuch')
        with pytest.raises(ValueError, match=f"'nonesuch', asked for by the environment variable {backends.VARIABLE};"):
            depthwise_conv2d(*inputs())
        monkeypatch.setenv(backends.VARIABLE, 'reference')
        assert torch.equal(depthwise_conv2d(*inputs()), depthwise_conv2d(*inputs(), backend='reference'))

    def test_tiles(self):
        """Tiles have the intended number of pixels, and detectors' maps enough programs for a GPU."""
        for shape in ((1, 1, 1, 1), (128, 384, 56, 56), (128, 1024, 7, 7), (2, 96, 200, 334), (2, 512, 25, 42)):
            for pixels in (triton_backend.PIXELS, triton_backend.PIXELS_OF_MANY_SUMS):
                columns, planes, rows = triton_backend.tile(*shape, pixels)
                assert columns * planes == pixels
                assert 1 <= rows <= shape[2]
                blocks = -(-shape[2] // rows) * -(-shape[3] // columns) * -(-shape[1] // planes)
                if shape[1] > 1:
                    assert shape[0] * blocks >= 132 * 4
                samples = triton_backend.samples_of_a_program(shape[0], rows, blocks)
                assert 1 <= samples <= shape[0]
                assert samples * rows <= max(triton_backend.MOST_TERMS, rows)

    def test_the_kernels_are_the_first(self):
        assert list(available_backends()) == ['native', 'triton', 'reference']
