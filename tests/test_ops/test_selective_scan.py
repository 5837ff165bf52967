"""The selective scan against a float64 truth, and at the edges of its domain."""

import itertools
import re

import pytest
import torch
from helpers import DEVICES, naive_scan, relative_error
from helpers.kernels import assert_everything_is_written, kept

from mmsparx.ops import selective_scan
from mmsparx.ops.selective_scan import reference

# Agreement is ||a - b|| / ||b|| per tensor with the float64 truth of the same (rounded) inputs.
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-6,
    torch.bfloat16: 4e-3,  # half a unit of its 8 bits is 2e-3
    torch.float16: 5e-4,  # half a unit of its 11 bits is 2.4e-4
}
ALL = ('D', 'z', 'delta_bias', 'delta_softplus')
DIFFERENTIABLE = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias')


def inputs(length, states=1, groups=2, *, batch=2, dim=8, with_=ALL, dtype=torch.float64, flat=False, seed=0):
    """Keyword arguments of `selective_scan`; `flat` gives B and C no axis of groups."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    exact = torch.float64 if dtype == torch.float64 else torch.float32
    matrix = (batch, states, length) if flat else (batch, groups, states, length)
    softplus = 'delta_softplus' in with_
    # The recurrence without the softplus is only bounded if the step is positive.
    step = normal(batch, dim, length) if softplus else normal(batch, dim, length).abs()
    bias = normal(dim) if softplus else normal(dim).abs()
    tensors = {
        'u': normal(batch, dim, length).to(dtype),
        'delta': step.to(dtype),
        'A': -torch.exp(0.5 * normal(dim, states)).to(exact),
        'B': normal(*matrix).to(dtype),
        'C': normal(*matrix).to(dtype),
        'D': normal(dim).to(exact),
        'z': normal(batch, dim, length).to(dtype),
        'delta_bias': bias.to(exact),
    }
    optional = {name: x for name, x in tensors.items() if name in ('u', 'delta', 'A', 'B', 'C') or name in with_}
    return {**optional, 'delta_softplus': softplus}


def tensors_of(arguments):
    return {name: x for name, x in arguments.items() if isinstance(x, torch.Tensor)}


def leaves(arguments, dtype=None, device=None):
    """The arguments with fresh leaves that require gradients."""
    return {
        name: x.detach().clone().to(device=device, dtype=dtype).requires_grad_() if isinstance(x, torch.Tensor) else x
        for name, x in arguments.items()
    }


def scan_or_skip(backend, **arguments):
    """The scan by `backend`; the test is skipped if a compiled backend refuses its inputs."""
    try:
        return selective_scan(**arguments, backend=backend)
    except RuntimeError as error:
        if backend == 'reference' or 'cannot run' not in str(error):
            raise
        pytest.skip(str(error))


def assert_agrees(arguments, backend, device='cpu', scan=scan_or_skip):
    """Assert that output, last state and every gradient agree with the truth in float64."""
    tolerance = TOLERANCE[arguments['u'].dtype]
    ours = leaves(arguments, device=device)
    out, state = scan(backend, **ours, return_last_state=True)
    grad = torch.randn(out.shape, dtype=torch.float64).to(out.dtype)
    expected_out, expected_state, gradients = truth_of(arguments, grad)
    assert out.dtype == arguments['u'].dtype
    assert state.dtype == arguments['A'].dtype
    assert relative_error(out.cpu(), expected_out) < tolerance
    assert relative_error(state.cpu(), expected_state) < min(tolerance, TOLERANCE[state.dtype])

    out.backward(grad.to(device))
    for name, x in tensors_of(ours).items():
        assert x.grad.dtype == x.dtype
        assert relative_error(x.grad.cpu(), gradients[name]) < tolerance, name


@kept
def truth_of(arguments, grad):
    """Return output, last state, and gradients by name, in float64."""
    truth = leaves(arguments, torch.float64)
    out, state = naive_scan(**truth)
    out.backward(grad.double())
    return out.detach(), state.detach(), {name: x.grad for name, x in tensors_of(truth).items()}


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
class TestTruth:
    @pytest.mark.parametrize('length', [1, 2, 49, 63, 64, 65, 196, 255, 256, 257, 600])
    def test_lengths(self, length, dtype, backend, device):
        assert_agrees(inputs(length, states=1, groups=4, dtype=dtype), backend, device)

    @pytest.mark.parametrize(('states', 'groups'), [(n, g) for n in (1, 2, 16) for g in (1, 2, 4)])
    def test_states_and_groups(self, states, groups, dtype, backend, device):
        assert_agrees(inputs(70, states, groups, dtype=dtype), backend, device)

    # With a lane per row, the warps have 32 rows of a group or the rest of it, read by single items or 16 bytes.
    @pytest.mark.parametrize('length', [49, 136])
    @pytest.mark.parametrize('dim', [32, 80])
    def test_rows(self, dim, length, dtype, backend, device):
        assert_agrees(inputs(length, batch=1, dim=dim, dtype=dtype), backend, device)

    @pytest.mark.parametrize('states', [1, 16])
    def test_long(self, states, dtype, backend, device):
        assert_agrees(inputs(2000, states, groups=1, batch=1, dtype=dtype), backend, device)

    @pytest.mark.parametrize('with_', [c for n in range(5) for c in itertools.combinations(ALL, n)], ids='-'.join)
    def test_options(self, with_, dtype, backend, device):
        assert_agrees(inputs(65, states=2, with_=with_, dtype=dtype), backend, device)

    @pytest.mark.parametrize('states', [1, 16])
    def test_without_group_axis(self, states, dtype, backend, device):
        assert_agrees(inputs(65, states, flat=True, dtype=dtype), backend, device)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('with_', [('D', 'delta_bias', 'delta_softplus'), ALL], ids='-'.join)
@pytest.mark.parametrize(('length', 'states', 'groups'), [(1, 1, 1), (49, 1, 4), (196, 1, 4), (257, 16, 2)])
def test_16_bit(length, states, groups, with_, dtype, backend, device):
    assert_agrees(inputs(length, states, groups, with_=with_, dtype=dtype), backend, device)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('length', [49, 136])
def test_16_bit_rows(length, dtype, backend, device):
    assert_agrees(inputs(length, batch=1, dim=80, dtype=dtype), backend, device)


def test_16_bit_state_is_not_rounded(backend):
    # 1 + 2^-12 is 1 in bfloat16: a state held there would stay at 1.
    arguments = inputs(4, batch=1, dim=1, groups=1, with_=(), dtype=torch.bfloat16)
    arguments |= {'A': torch.zeros(1, 1), 'delta': torch.ones_like(arguments['delta'])}
    arguments |= {'B': torch.ones_like(arguments['B']), 'u': torch.tensor([[[1, 2**-12, 2**-12, 2**-12]]]).bfloat16()}
    _, state = scan_or_skip(backend, **arguments, return_last_state=True)
    assert state.item() == 1 + 3 * 2**-12


class TestMemoryLayout:
    def test_strided_inputs(self, backend):
        arguments = inputs(65, states=2, dtype=torch.float32)

        def transposed(x):
            return x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else x

        def every_other(x):
            return torch.stack((x, torch.full_like(x, torch.nan)), -1).flatten(-2)[..., ::2]

        for change in (transposed, every_other):
            strided = {name: change(x) if torch.is_tensor(x) else x for name, x in arguments.items()}
            assert not strided['u'].is_contiguous()
            assert_agrees(arguments, backend, scan=self._laid_out_as(strided))

    @staticmethod
    def _laid_out_as(strided):
        """A scan that lays its inputs out with the strides of `strided`, NaN between them."""

        def like(x, model):
            storage = torch.full((model.untyped_storage().size() // model.itemsize,), torch.nan)
            return storage.as_strided(x.shape, model.stride()).copy_(x)

        def scan(backend, **arguments):
            laid_out = {name: like(x, strided[name]) if torch.is_tensor(x) else x for name, x in arguments.items()}
            return scan_or_skip(backend, **laid_out)

        return scan

    def test_broadcast_inputs(self, backend):
        arguments = inputs(65, groups=1, dtype=torch.float32)
        row = arguments['B'][:1, :, :, :1].expand_as(arguments['B'])  # all strides but the last are 0
        truth = {name: x.double() if torch.is_tensor(x) else x for name, x in (arguments | {'B': row}).items()}
        assert relative_error(scan_or_skip(backend, **(arguments | {'B': row})), naive_scan(**truth)[0]) < 1e-6

    def test_strided_gradient(self, backend):
        arguments = leaves(inputs(65, dtype=torch.float32))
        truth = leaves(arguments, torch.float64)
        weight = torch.randn(65, 8, 2)
        (scan_or_skip(backend, **arguments).permute(2, 1, 0) * weight).sum().backward()
        (naive_scan(**truth)[0].permute(2, 1, 0) * weight).sum().backward()
        for name, x in tensors_of(arguments).items():
            assert relative_error(x.grad, truth[name].grad) < 1e-6, name

    def test_inputs_are_left_alone(self, backend):
        arguments = leaves(inputs(65, dtype=torch.float32))
        before = {name: x.detach().clone() for name, x in tensors_of(arguments).items()}
        scan_or_skip(backend, **arguments).sum().backward()
        assert all(torch.equal(x, before[name]) for name, x in tensors_of(arguments).items())

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize('states', [1, 2])
    def test_reads_no_uninitialised_memory(self, states, dtype, backend):
        arguments = leaves(inputs(130, states=states, dtype=dtype))

        def run():
            out, state = scan_or_skip(backend, **arguments, return_last_state=True)
            return [out, state, *torch.autograd.grad(out.sum(), tensors_of(arguments).values())]

        assert_everything_is_written(run)

    @pytest.mark.emulated
    def test_many_rows_go_by_lanes(self, use):
        def run(backend):
            arguments = leaves(inputs(70, dtype=torch.float32))
            out = scan_or_skip(backend, **arguments)
            return [out, *torch.autograd.grad(out.square().sum(), [arguments[name] for name in 'uABC'])]

        warps, lanes = (run(use(name)) for name in ('emulated', 'emulated-lanes'))
        for ours, theirs in zip(lanes, warps, strict=True):
            assert not torch.equal(ours, theirs)  # the same but for rounding
            assert relative_error(ours, theirs) < 1e-6

    def test_repeats_bitwise(self, backend, device):
        arguments = leaves(inputs(300, states=2, groups=4, dtype=torch.float32), device=device)

        def run():
            out = scan_or_skip(backend, **arguments)
            return [out, *torch.autograd.grad(out.sum(), tensors_of(arguments).values())]

        first = run()
        assert all(torch.equal(a, b) for _ in range(2) for a, b in zip(first, run(), strict=True))


class TestGradients:
    @pytest.mark.parametrize('with_', [(), ALL, ('D',), ('delta_bias', 'delta_softplus')], ids='-'.join)
    @pytest.mark.parametrize(('states', 'groups', 'length'), [(1, 2, 7), (2, 1, 8), (2, 2, 1)])
    def test_gradcheck(self, states, groups, length, with_, backend, monkeypatch):
        if backend == 'reference':
            # A block has two chunks, so that 7 and 8 positions cross both kinds of border.
            monkeypatch.setattr(reference, 'CHUNK', 2)
            monkeypatch.setattr(reference, 'BLOCK', 4)
        arguments = leaves(inputs(length, states, groups, batch=2, dim=2, with_=with_))
        names = list(tensors_of(arguments))

        def scan(*values):
            return selective_scan(**(arguments | dict(zip(names, values, strict=True))), backend=backend)

        assert torch.autograd.gradcheck(scan, [arguments[name] for name in names])

    @pytest.mark.parametrize(('chunk', 'block'), [(1, 1), (1, 3), (2, 4), (5, 20)])
    def test_block_borders_do_not_show(self, chunk, block, monkeypatch):
        monkeypatch.setattr(reference, 'CHUNK', chunk)
        monkeypatch.setattr(reference, 'BLOCK', block)
        for length in (1, 2, 4, 19, 20, 21):
            assert_agrees(inputs(length, states=2), 'reference')

    @pytest.mark.parametrize('name', DIFFERENTIABLE)
    def test_of_one_input_alone(self, name, backend):
        arguments = inputs(65, states=2, dtype=torch.float32)
        arguments[name].requires_grad_()
        truth = {k: x.detach().double() if torch.is_tensor(x) else x for k, x in arguments.items()}
        truth[name].requires_grad_()
        scan_or_skip(backend, **arguments).square().sum().backward()
        naive_scan(**truth)[0].square().sum().backward()
        assert relative_error(arguments[name].grad, truth[name].grad) < 1e-6

    def test_last_state_carries_none(self, backend):
        out, state = scan_or_skip(backend, **leaves(inputs(5, dtype=torch.float32)), return_last_state=True)
        assert out.requires_grad
        assert not state.requires_grad

    def test_last_state_keeps_no_other(self, backend):
        for batch, dim in ((1, 2), (2, 8)):
            arguments = inputs(1000, states=2, batch=batch, dim=dim, dtype=torch.float32)
            _, state = scan_or_skip(backend, **arguments, return_last_state=True)
            assert state.untyped_storage().nbytes() == batch * dim * 2 * 4


class TestExtremes:
    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
    @pytest.mark.parametrize('around', [-30.0, -20.0, 20.0, 40.0, 300.0])
    def test_softplus(self, around, dtype, backend):
        # The values are near and above 20, where torch's softplus turns linear, and where it is tiny.
        # There is no bias: in float32 the sum with it would lose more bits than the softplus.
        arguments = inputs(70, with_=('D', 'delta_softplus'), dtype=dtype)
        arguments['delta'] = arguments['delta'] + around
        if around > 0:
            # Otherwise the decay is 0, and no gradient reaches A and the previous state.
            arguments['A'] = arguments['A'] / around
        assert_agrees(arguments, backend)

    def test_softplus_element_by_element(self, backend):
        # Of rows with one position, outputs are steps, and gradients of delta their derivatives. Powers of a GPU are
        # exact to 2.4e-7.
        delta = torch.linspace(-86, 86, 1024).view(1, -1, 1).requires_grad_()
        u, A, B = torch.ones_like(delta), -torch.ones(1024, 1), torch.ones(1, 1, 1)
        out = scan_or_skip(backend, u=u, delta=delta, A=A, B=B, C=B, delta_softplus=True)
        out.sum().backward()
        x = delta.detach().double()
        for found, expected in ((out, x.clamp(min=0) + (-x.abs()).exp().log1p()), (delta.grad, x.sigmoid())):
            assert (found / expected - 1).abs().max() < 8e-7

    @pytest.mark.parametrize('value', [1e4, -1e4, 1e30, -1e30])
    def test_large_steps_stay_finite(self, value, backend):
        arguments = leaves(inputs(70, dtype=torch.float32))
        arguments['delta'] = torch.full_like(arguments['delta'], value).requires_grad_()
        arguments['u'] = (arguments['u'].detach() * 1e-30).requires_grad_()
        out, state = scan_or_skip(backend, **arguments, return_last_state=True)
        gradients = torch.autograd.grad(out.sum(), tensors_of(arguments).values())
        assert all(x.isfinite().all() for x in (out, state, *gradients))

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize('value', [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize('name', ['u', 'delta', 'B', 'C', 'z'])
    @pytest.mark.parametrize('states', [1, 2])
    def test_nan_and_infinity_propagate_and_do_not_leak(self, states, name, value, dtype, backend):
        clean = inputs(130, states, groups=2, dtype=dtype)
        dirty = dict(clean)
        dirty[name] = clean[name].clone()
        dirty[name][1, 1, ..., 66] = value  # a channel of u, delta and z; a group, hence 4 channels, of B and C
        out, expected = scan_or_skip(backend, **dirty), scan_or_skip(backend, **clean)
        channels = slice(4, 8) if name in ('B', 'C') else slice(1, 2)
        touched = torch.zeros_like(out, dtype=torch.bool)
        touched[1, channels, 66:] = True
        assert torch.equal(out[~touched], expected[~touched])
        truth, _ = naive_scan(**{k: x.double() if torch.is_tensor(x) else x for k, x in dirty.items()})
        # The result has the truth's non-finite values, NaN for NaN and infinity for infinity.
        assert (~truth.isfinite()).any() or (name, value) in {('delta', -torch.inf), ('z', -torch.inf)}
        assert torch.equal(out.isfinite(), truth.isfinite())
        if backend in ('emulated', 'native-on-gpu'):
            # A product of decays over a whole row that has become 0 turns infinity into NaN.
            assert out[truth.isnan()].isnan().all()
        else:
            assert torch.equal(out.isnan(), truth.isnan())
            assert torch.equal(out.double()[truth.isinf()], truth[truth.isinf()])

    @pytest.mark.parametrize('value', [torch.nan, torch.inf])
    @pytest.mark.parametrize('name', ['u', 'B', 'C', 'D'])
    def test_nan_and_infinity_in_gradients_are_those_of_the_truth(self, name, value, backend):
        arguments = inputs(130, groups=2, dim=80, with_=('D', 'delta_bias', 'delta_softplus'), dtype=torch.float32)
        arguments[name].view(-1)[66] = value
        ours, truth = leaves(arguments), leaves(arguments, torch.float64)
        scan_or_skip(backend, **ours).sum().backward()
        naive_scan(**truth)[0].sum().backward()
        for name, x in tensors_of(ours).items():
            assert torch.equal(x.grad.isfinite(), truth[name].grad.isfinite()), name

    def test_nan_in_the_gradient_does_not_leak(self, backend):
        arguments = leaves(inputs(130, groups=2, dtype=torch.float32))
        grad = torch.ones(2, 8, 130)
        grad[1, 1, 66] = torch.nan
        out = scan_or_skip(backend, **arguments)
        du = torch.autograd.grad(out, arguments['u'], grad)[0]
        assert du[1, 1, :67].isnan().all()
        du[1, 1, :67] = 0
        assert du.isfinite().all()

    @pytest.mark.parametrize('with_', [(), ALL], ids='-'.join)
    def test_empty_batch(self, with_, backend):
        arguments = leaves(inputs(65, states=2, batch=0, with_=with_, dtype=torch.float32))
        out, state = scan_or_skip(backend, **arguments, return_last_state=True)
        assert out.shape == (0, 8, 65)
        assert state.shape == (0, 8, 2)
        out.sum().backward()
        for name, x in tensors_of(arguments).items():
            assert x.grad.shape == x.shape, name
            assert not x.grad.any(), name


class TestInterface:
    def test_order_of_arguments_is_mambas(self):
        arguments = inputs(5)
        names = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias', 'delta_softplus')
        out, state = selective_scan(*(arguments[name] for name in names), True)
        expected, expected_state = naive_scan(**arguments)
        assert relative_error(out, expected) < 1e-12
        assert relative_error(state, expected_state) < 1e-12

    def test_returns_the_state_on_request_alone(self):
        assert isinstance(selective_scan(**inputs(5)), torch.Tensor)

    @pytest.mark.parametrize(
        ('changes', 'error', 'expected', 'got'),
        [
            ({'u': (2, 8)}, ValueError, 'u of shape (batch, dim, L)', '(2, 8)'),
            ({'u': (2, 8, 0)}, ValueError, 'L >= 1', '(2, 8, 0)'),
            ({'u': torch.int64}, TypeError, 'u in one of (torch.float64', 'torch.int64'),
            ({'u': torch.complex64}, TypeError, 'u in one of (torch.float64', 'torch.complex64'),
            ({'A': (8,)}, ValueError, 'A of shape (8, N)', '(8,)'),
            ({'A': (4, 2)}, ValueError, 'A of shape (8, N)', '(4, 2)'),
            ({'A': (8, 0)}, ValueError, 'A of shape (8, N)', '(8, 0)'),
            ({'A': torch.complex64}, TypeError, 'a real A', 'torch.complex64'),
            ({'A': torch.float64}, TypeError, 'A in torch.float32', 'torch.float64'),
            ({'A': torch.bfloat16}, TypeError, 'A in torch.float32', 'torch.bfloat16'),
            ({'delta': (2, 8, 6)}, ValueError, 'delta of shape (2, 8, 5)', '(2, 8, 6)'),
            ({'delta': (1, 8, 5)}, ValueError, 'delta of shape (2, 8, 5)', '(1, 8, 5)'),
            ({'delta': torch.float64}, TypeError, 'delta in torch.float32', 'torch.float64'),
            ({'B': (2, 5)}, ValueError, '(batch, G, N, L) or (batch, N, L)', '(2, 5)'),
            ({'C': (2, 1, 1, 2, 5)}, ValueError, '(batch, G, N, L) or (batch, N, L)', '(2, 1, 1, 2, 5)'),
            ({'B': (2, 3, 2, 5)}, ValueError, 'groups (B.shape[1]) that divide 8 channels', '3'),
            ({'B': (2, 0, 2, 5)}, ValueError, 'groups (B.shape[1]) that divide 8 channels', '0'),
            ({'B': (2, 2, 1, 5)}, ValueError, 'B of shape (2, 2, 2, 5)', '(2, 2, 1, 5)'),
            ({'C': (2, 4, 2, 5)}, ValueError, 'C of shape (2, 2, 2, 5)', '(2, 4, 2, 5)'),
            ({'C': (2, 2, 5)}, ValueError, 'C of shape (2, 2, 2, 5)', '(2, 1, 2, 5)'),
            ({'B': torch.bfloat16}, TypeError, 'B in torch.float32', 'torch.bfloat16'),
            ({'C': torch.float64}, TypeError, 'C in torch.float32', 'torch.float64'),
            ({'D': (8, 1)}, ValueError, 'D of shape (8,)', '(8, 1)'),
            ({'D': torch.float64}, TypeError, 'D in torch.float32', 'torch.float64'),
            ({'z': (2, 8, 1)}, ValueError, 'z of shape (2, 8, 5)', '(2, 8, 1)'),
            ({'z': torch.float16}, TypeError, 'z in torch.float32', 'torch.float16'),
            ({'delta_bias': (1,)}, ValueError, 'delta_bias of shape (8,)', '(1,)'),
            ({'delta_bias': torch.float64}, TypeError, 'delta_bias in torch.float32', 'torch.float64'),
            ({'B': torch.device('meta')}, ValueError, "B on u's device cpu", 'meta'),
            ({'D': torch.device('meta')}, ValueError, "D on u's device cpu", 'meta'),
        ],
        ids=lambda x: str(x)[:40],
    )
    def test_refuses(self, changes, error, expected, got):
        arguments = inputs(5, states=2, dtype=torch.float32)
        for name, change in changes.items():
            x = arguments[name]
            arguments[name] = torch.zeros(change) if isinstance(change, tuple) else x.to(change)
        with pytest.raises(error, match=f'^selective_scan: expected .*{re.escape(expected)}.*got {re.escape(got)}'):
            selective_scan(**arguments)

    def test_16_bit_parameters_are_refused_with_the_fix(self):
        arguments = inputs(5, dtype=torch.bfloat16)
        arguments['D'] = arguments['D'].bfloat16()
        with pytest.raises(TypeError, match=r'D in torch.float32 beside u in torch.bfloat16.*\.to\(torch.float32\)'):
            selective_scan(**arguments)
