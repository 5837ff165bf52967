"""The norm over whole maps: results against float64, cases left to torch, and the operator in torch's tools."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import kernels, relative_error
from torch.library import opcheck

from mmsparx.ops import backends as common
from mmsparx.ops import map_norm, native
from mmsparx.ops.map_norm import available_backends, backends, reference, triton_backend

# These are the rounding of the output, and in float32 that of sums of terms that cancel.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
# Sizes are around vectors of 4, 8 and 16 lanes, four of them, and parts of 4096 numbers.
SHAPES = [
    (2, 9, 1, 1),
    (2, 3, 1, 5),
    (2, 1, 3, 17),
    (3, 5, 7, 7),
    (1, 4, 32, 32),
    (1, 3, 37, 37),
    (2, 7, 61, 83),
    (2, 5, 130),
    (2, 40),
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


def inputs(shape=(2, 3, 6, 7), dtype=torch.float32, seed=0):
    """x (with a mean other than 0), weight and bias."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in (shape, shape[1:2], shape[1:2])]
    return [(x + shift).to(dtype) for x, shift in zip(tensors, (2, 1, 0), strict=True)]


def by_torch(x, weight, bias, eps=1e-5):
    return F.group_norm(x, 1, weight, bias, eps)


def run(function, tensors, rounded=None):
    """The output and the gradients of all inputs, for a gradient of that type that only depends on the shape."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    out = function(*leaves)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grad = grad.to(rounded or out.dtype).to(out.dtype)
    return [out, *torch.autograd.grad(out, leaves, grad)]


def assert_close_to_truth(tensors, backend):
    """Assert agreement with float64 on the same inputs."""
    truth = run(by_torch, [x.double() for x in tensors], tensors[0].dtype)
    found = run(partial(map_norm, backend=backend), tensors)
    for name, ours, exact in zip(('out', 'x', 'weight', 'bias'), found, truth, strict=True):
        assert relative_error(ours, exact) <= TOLERANCE[ours.dtype], name


class TestTruth:
    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize('shape', SHAPES, ids=str)
    def test_shapes(self, shape, dtype, backend):
        assert_close_to_truth(inputs(shape, dtype), backend)

    def test_a_mean_far_from_zero(self, backend):
        x, weight, bias = inputs((2, 3, 61, 83))
        x = x + 1e4
        out = map_norm(x, weight, bias, backend=backend)
        # The mean is kept in float32, whose last place is 1e-3 there; torch's sums of squares lose more.
        truth = by_torch(x.double(), weight.double(), bias.double())
        assert relative_error(out, truth) < (1e-1 if backend == 'reference' else 5e-4)

    def test_eps(self, backend):
        x, weight, bias = inputs()
        for eps in (1e-12, 0.5):
            found, truth = map_norm(x, weight, bias, eps, backend=backend), by_torch(x, weight, bias, eps)
            assert relative_error(found, truth) < 1e-6
        # A constant map becomes the bias; torch's result also has the rounding of its mean.
        flat = map_norm(torch.full_like(x, 3.0), weight, bias, backend=backend)
        assert (flat - bias.view(-1, 1, 1)).abs().max() <= (1e-3 if backend == 'reference' else 0)

    @pytest.mark.parametrize('shape', [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5)], ids=str)
    def test_nothing(self, shape, backend):
        out, dx, dweight, dbias = run(partial(map_norm, backend=backend), inputs(shape))
        assert (out.shape, dx.shape) == (shape, shape)
        assert not dweight.any()
        assert not dbias.any()

    def test_samples_of_many_parts(self, backend, monkeypatch):
        """Triton combines parts of a sample, and chunks of a channel."""
        if backend != 'triton':
            pytest.skip('the other backends split samples in their own way')
        monkeypatch.setattr(triton_backend, 'parts', lambda *_: (4, 2))
        monkeypatch.setattr(triton_backend, 'channel_tile', lambda *_: (4, 256, 2))
        assert_close_to_truth(inputs((2, 5, 37, 41)), backend)

    def test_values_that_are_not_finite_stay_in_their_sample(self, backend):
        x, weight, bias = inputs()
        x[0, 1, 2, 3] = torch.nan
        out = map_norm(x, weight, bias, backend=backend)
        assert out[0].isnan().all()
        assert out[1].isfinite().all()

    @pytest.mark.parametrize('narrow', [torch.bfloat16, torch.float16])
    def test_mixed_types(self, narrow, backend):
        """Parameters in float32 with 16-bit maps, as under autocast, and the reverse, as after a float32 scan."""
        for types in ((narrow, torch.float32), (torch.float32, narrow)):
            x, weight, bias = inputs()
            tensors = [x.to(types[0]), weight.to(types[1]), bias.to(types[1])]
            assert_close_to_truth(tensors, backend)
            found = run(partial(map_norm, backend=backend), tensors)
            assert [x.dtype for x in found] == [types[0], types[0], types[1], types[1]]


class TestMemory:
    def test_layouts(self, backend):
        x, weight, bias = inputs((2, 6, 8, 9))
        function = partial(map_norm, backend=backend)
        for given, change in (
            (x, lambda x: x.to(memory_format=torch.channels_last)),
            (x[:, ::2], lambda x: x),
            (x[..., 1:8], lambda x: x),
            (x.transpose(2, 3), lambda x: x),
            (x[:1].expand(2, -1, -1, -1), lambda x: x),
        ):
            parameters = weight[: given.shape[1]], bias[: given.shape[1]]
            expected = run(function, [given.contiguous(), *parameters])
            for ours, theirs in zip(run(function, [change(given), *parameters]), expected, strict=True):
                assert relative_error(ours, theirs) < 1e-6
        leaf, ones = (x.clone().requires_grad_() for _ in range(2))
        function(leaf, weight, bias).sum().backward()  # a gradient whose strides are 0
        function(ones, weight, bias).backward(torch.ones_like(x))
        assert torch.equal(leaf.grad, ones.grad)

    def test_kept_for_the_backward(self):
        tensors = [x.requires_grad_() for x in inputs()]
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
            map_norm(*tensors)
        known = {x.data_ptr() for x in tensors}
        assert [x.numel() for x in kept if x.data_ptr() not in known] == [2, 2]  # mean and deviation of two samples

    def test_the_same_bits_for_any_number_of_threads(self, backend):
        if backend != 'native':
            pytest.skip(f'{backend} has no threads of its own')
        tensors = inputs((2, 37, 61, 30))
        expected = run(partial(map_norm, backend=backend), tensors)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = run(partial(map_norm, backend=backend), tensors)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    def test_everything_is_written_and_repeats_bitwise(self, backend):
        tensors = inputs((2, 5, 9, 7))
        kernels.assert_everything_is_written(lambda: run(partial(map_norm, backend=backend), tensors))


class TestTorch:
    """The operator in torch's tools."""

    def test_gradcheck(self, backend):
        tensors = [x.requires_grad_() for x in inputs((2, 2, 3, 4), torch.float64)]
        function = partial(map_norm, backend=backend)
        assert torch.autograd.gradcheck(function, tensors, check_forward_ad=True, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    def test_opcheck(self, dtype, backend):
        x, weight, bias = (x.requires_grad_() for x in inputs(dtype=dtype))
        opcheck(torch.ops.mmsparx.map_norm, (x, weight, bias, 1e-5, backend))
        _, mean, rstd = torch.ops.mmsparx.map_norm(x, weight, bias, 1e-5, backend)
        grad = torch.randn(x.shape, dtype=dtype, requires_grad=True)
        opcheck(torch.ops.mmsparx.map_norm_bwd, (grad, x, weight, bias, mean, rstd, 1e-5, backend))

    def test_func(self):
        x, weight, bias = inputs((3, 2, 4, 5), torch.float64)
        found = torch.vmap(lambda x: map_norm(x[None], weight, bias)[0])(x)
        assert relative_error(found, map_norm(x, weight, bias)) < 1e-13
        loss = lambda weight, x: map_norm(x[None], weight, bias).pow(3).sum()
        found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, x)
        for one, sample in zip(found, x, strict=True):
            assert relative_error(one, torch.func.grad(loss)(weight, sample)) < 1e-13

    @pytest.mark.parametrize('dynamic', [False, True])
    def test_compiled(self, dynamic):
        compiled = torch.compile(map_norm, fullgraph=True, backend='aot_eager', dynamic=dynamic)
        for shape in ((2, 3, 6, 7), (1, 3, 9, 5)):
            tensors = inputs(shape)
            for ours, theirs in zip(run(compiled, tensors), run(map_norm, tensors), strict=True):
                assert torch.equal(ours, theirs)

    def test_autocast_leaves_it_alone(self, backend):
        for dtype in (torch.float32, torch.bfloat16):
            x, weight, bias = inputs()
            expected = map_norm(x.to(dtype), weight, bias, backend=backend)
            with torch.autocast('cpu', torch.bfloat16):
                assert torch.equal(map_norm(x.to(dtype), weight, bias, backend=backend), expected)


class TestOnGpus:
    """The code for GPUs, as far as a CPU can test it."""

    @pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
    @pytest.mark.parametrize('shape', [(2, 9, 1, 1), (3, 5, 7, 9), (1, 4, 64, 61), (2, 40)], ids=str)
    def test_the_reference_without_torchs_norm(self, shape, dtype, tolerance):
        arguments = (*inputs(shape, dtype), 1e-5)
        for ours, theirs in zip(reference._by_var_mean(*arguments), reference.forward(*arguments), strict=True):
            assert (ours.dtype, ours.is_contiguous()) == (theirs.dtype, True)
            assert relative_error(ours, theirs) < tolerance

    def test_parts(self):
        """Two samples of a detector fill a GPU; no part is empty."""
        for batch, size in ((1, 1), (2, 96 * 200 * 334), (2, 512 * 25 * 42), (128, 96 * 56 * 56), (128, 512 * 49)):
            count, chunk = triton_backend.parts(batch, size)
            assert (count - 1) * chunk * triton_backend.BLOCK < size <= count * chunk * triton_backend.BLOCK
            assert batch * count >= min(132, batch * size / triton_backend.BLOCK / 8)
        for rows, length in ((2, 1), (192, 200 * 334), (128 * 96, 3136), (128 * 640, 196), (128 * 1024, 49)):
            tile_rows, positions, chunk = triton_backend.channel_tile(rows, length)
            assert tile_rows * positions == triton_backend.BLOCK
            chunks = -(-length // (positions * chunk))
            assert -(-rows // tile_rows) * chunks >= min(132 * 4, rows * length / triton_backend.BLOCK)


class TestOtherCases:
    def test_other_devices_have_no_operator(self):
        x, weight, bias = (x.to('meta') for x in inputs())
        assert map_norm(x, weight, bias).shape == x.shape
        with pytest.raises(RuntimeError, match='cannot run: it has kernels for cpu and cuda, got tensors on meta'):
            map_norm(x, weight, bias, backend='native')

    def test_parameters_of_another_kind_are_torchs_to_judge(self):
        x, weight, bias = inputs()
        with pytest.raises(RuntimeError, match='mixed dtype'):
            map_norm(x, weight.double(), bias.double())
        with pytest.raises(RuntimeError, match='Expected weight to be a vector'):
            map_norm(x, weight[:2], bias)
        with pytest.raises(RuntimeError, match=r'cannot run: expected weight of shape \(3,\) on cpu, got \(2,\)'):
            map_norm(x, weight[:2], bias, backend='native')

    @pytest.mark.skipif(native.missing() is not None, reason=f'the compiled kernels are not here: {native.missing()}')
    def test_the_kernels_protect_memory(self):
        x, weight, bias = inputs()
        out, mean, rstd = torch.ops.mmsparx.map_norm_native(x, weight, bias, 1e-5)
        with pytest.raises(RuntimeError, match=r'^map_norm: expected x of shape \(batch, channels, ...\)'):
            torch.ops.mmsparx.map_norm_native(x[0, 0, 0], weight, bias, 1e-5)
        with pytest.raises(RuntimeError, match=r'^map_norm: expected weight of shape \(3\)'):
            torch.ops.mmsparx.map_norm_native(x, weight[:2], bias, 1e-5)
        with pytest.raises(RuntimeError, match=r'^map_norm: expected grad of '):
            torch.ops.mmsparx.map_norm_bwd_native(out[1:], x, weight, bias, mean, rstd, 1e-5)
        with pytest.raises(RuntimeError, match=r'^map_norm: expected mean and rstd as a forward returns them'):
            torch.ops.mmsparx.map_norm_bwd_native(out, x, weight, bias, mean[1:], rstd, 1e-5)


class TestChoice:
    @pytest.fixture(autouse=True)
    def _fresh(self, monkeypatch):
        monkeypatch.delenv(backends.VARIABLE, raising=False)
        monkeypatch.setattr(common, '_warned', set())

    def test_without_compiled_kernels(self, monkeypatch):
        without = common.Backend('native', None, None, lambda: 'it was not compiled', devices=('cpu',))
        monkeypatch.setattr(backends, 'BACKENDS', [without, backends.BACKENDS[-1]])
        with pytest.warns(UserWarning, match="map norm runs on the slower 'reference' backend, because 'native'"):
            map_norm(*inputs())
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert_close_to_truth(inputs(), 'auto')

    def test_by_name(self, monkeypatch):
        assert list(available_backends()) == ['native', 'triton', 'reference']
        with pytest.raises(ValueError, match="unknown map-norm backend 'x', asked for by backend=; known ones: auto"):
            map_norm(*inputs(), backend='x')
        monkeypatch.setenv(backends.VARIABLE, 'nonesuch')
        with pytest.raises(ValueError, match=f"'nonesuch', asked for by the environment variable {backends.VARIABLE};"):
            map_norm(*inputs())
