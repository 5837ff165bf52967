"""mamba-ssm's scan behind our interfaces, with a stand-in that computes the documented function on a CPU."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from helpers import naive_scan, relative_error

pytest.importorskip('mmengine')
from benchmarks import cross_selective_scan, mamba, scans, selective_scan
from mmsparx.analysis.timing import Protocol
from mmsparx.layers.mixers import SS2D
from mmsparx.ops import selective_scan as scan
from mmsparx.ops.selective_scan import backends, reference
from mmsparx.ops.selective_scan.backends import check_name, choose

CPU = torch.device('cpu')


def wide(u, delta, A, B, C, D, delta_bias):
    """The scan in float64, under the package's rules for types, shapes and layout."""
    assert u.dtype == delta.dtype == B.dtype == C.dtype != torch.float64
    assert A.dtype == D.dtype == delta_bias.dtype == torch.float32
    assert B.dim() == C.dim() == 4
    assert all(x.stride(-1) == 1 or x.shape[-1] == 1 for x in (u, delta, B, C))
    return [x.double() for x in (u, delta, A, B, C, D, delta_bias)]


@pytest.fixture
def extension(monkeypatch):
    """A stand-in for its extension: separate forward and backward, connected only by states of its own shape."""
    kept = []

    def fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        assert z is None
        own = torch.randn(u.shape[0], u.shape[1], -(-u.shape[2] // 2048), 2 * A.shape[1])
        out, states = reference.forward(*wide(u, delta, A, B, C, D, delta_bias), delta_softplus)
        kept.append((own, states))
        return [out.to(u.dtype), own.clone()]

    def bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z):
        assert (z, out, dz, recompute_out_z) == (None, None, None, False)
        assert x.is_contiguous()
        assert dout.stride(-1) == 1 or dout.shape[-1] == 1
        states = next(states for own, states in kept if torch.equal(x, own))
        inputs = (u, delta, A, B, C, D, delta_bias)
        gradients = reference.backward(dout.double(), *wide(*inputs), states, delta_softplus)
        return [gradient.to(x.dtype) for gradient, x in zip(gradients, inputs, strict=True)]

    module = ModuleType(mamba.EXTENSION)
    module.fwd, module.bwd = fwd, bwd
    module.__spec__ = SimpleNamespace()
    monkeypatch.setitem(sys.modules, mamba.EXTENSION, module)
    monkeypatch.setattr(mamba, 'DEVICES', ('cpu',))
    return module


def package(monkeypatch):
    def selective_scan_fn(
        u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
    ):
        assert z is None
        assert not return_last_state
        u64, delta64, *others, bias = wide(u, delta, A, B, C, D, delta_bias)
        return naive_scan(u64, delta64, *others, None, bias, delta_softplus)[0].to(u.dtype)

    for name in ('mamba_ssm', 'mamba_ssm.ops', 'mamba_ssm.ops.selective_scan_interface'):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules['mamba_ssm.ops.selective_scan_interface'].selective_scan_fn = selective_scan_fn


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_the_peer_computes_the_operator(dtype, tolerance, monkeypatch):
    package(monkeypatch)
    inputs = selective_scan.make_inputs(2, 8, 20, CPU, dtype)
    expected = scan(**{name: x.double() for name, x in inputs.items()}, delta_softplus=True, backend='reference')
    assert relative_error(mamba.scan(**inputs), expected) < tolerance


@pytest.mark.parametrize('length', [1, 49, 130])
@pytest.mark.parametrize('states', [1, 5])
@pytest.mark.usefixtures('extension')
def test_the_backend_computes_the_operator(length, states):
    inputs = selective_scan.make_inputs(2, 8, length, CPU, states=states)
    grad = torch.randn(2, 8, length)

    def run(backend, inputs, grad):
        leaves = [x.detach().requires_grad_() for x in inputs.values()]
        out = scan(**dict(zip(inputs, leaves, strict=True)), delta_softplus=True, backend=backend)
        return out, *torch.autograd.grad(out, leaves, grad)

    truth = run('reference', {name: x.double() for name, x in inputs.items()}, grad.double())
    with mamba.as_backend():
        found = run(mamba.NAME, inputs, grad)
    for ours, true in zip(found, truth, strict=True):
        assert ours.dtype == torch.float32
        assert relative_error(ours, true) < 1e-6


def test_its_states_fit_into_ours_at_every_length():
    for length in (*range(1, 200), 2047, 2048, 2049, 4096, 4097, 64000):
        own = -(-length // mamba.CHUNK) * 2
        assert own <= mamba.state_count(length), length


@pytest.mark.usefixtures('extension')
def test_a_mixer_with_its_scan_is_the_same_mixer():
    mixer = SS2D(8, backend=mamba.NAME)
    other = SS2D(8, backend='reference')
    other.load_state_dict(mixer.state_dict())
    x = torch.randn(2, 8, 5, 6)
    with mamba.as_backend():
        out = mixer(x)
        out.square().sum().backward()
    expected = other(x)
    expected.square().sum().backward()
    assert relative_error(out, expected) < 1e-6
    for (name, ours), theirs in zip(mixer.named_parameters(), other.parameters(), strict=True):
        assert relative_error(ours.grad, theirs.grad) < 1e-5, name


@pytest.mark.usefixtures('extension')
def test_the_scan_of_maps_by_its_plain_scan():
    inputs = cross_selective_scan.make_inputs(2, 24, (5, 3), 2, CPU)
    for which in scans.PASSES:
        result = scans.compare(
            cross_selective_scan.CROSS_SCAN, ['mamba-ssm-plain'], inputs, which, Protocol(1e-3, 3, 0)
        )
        assert result.measured['mamba-ssm-plain'].facts['relative_error'] < 1e-5


def test_it_is_a_backend_within_the_context_alone():
    before = list(backends.BACKENDS)
    with mamba.as_backend():
        check_name(mamba.NAME)
        assert choose('auto', torch.empty(1, 1, 1)).name != mamba.NAME
        with pytest.raises(RuntimeError, match=r"'mamba-ssm', asked for by backend=, cannot run: "):
            choose(mamba.NAME, torch.empty(1, 1, 1))
    assert before == backends.BACKENDS


def test_why_it_cannot_run(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mamba_ssm', None)
    with pytest.raises(ImportError, match='mamba_ssm'):
        mamba.scan(**selective_scan.make_inputs(1, 4, 4, CPU))
    monkeypatch.setattr(mamba, 'EXTENSION', 'no_such_extension')
    assert mamba.missing() == 'mamba-ssm is not installed (there is no module no_such_extension)'
    assert mamba.refusal(torch.empty(1)) == 'it has kernels for cuda alone, got tensors on cpu'
    on_gpu = SimpleNamespace(device=torch.device('cuda'), dtype=torch.float64)
    assert mamba.refusal(on_gpu) == 'it has no kernels for float64'
    assert mamba.refusal(SimpleNamespace(device=torch.device('cuda'), dtype=torch.float32)) is None


def test_an_unknown_interface_is_reported(extension):
    extension.fwd = lambda u: None
    with mamba.as_backend(), pytest.raises(RuntimeError, match='another interface than versions 1 and 2 have: '):
        scan(**selective_scan.make_inputs(1, 4, 4, CPU), delta_softplus=True, backend=mamba.NAME)
