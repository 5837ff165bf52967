"""The selective scan as torch's compilers, exporters and counters see it."""

import shutil

import pytest
import torch
from helpers import relative_error
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from mmsparx.ops import selective_scan
from mmsparx.ops.selective_scan import reference

FORWARD = torch.ops.mmsparx.selective_scan_fwd.default
BACKWARD = torch.ops.mmsparx.selective_scan_bwd.default


def inputs(length=9, states=2, groups=2, batch=2, dim=4, dtype=torch.float32, device='cpu', requires_grad=False):
    """u, delta, A, B, C, D and delta_bias."""
    exact = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*shape, dtype=dtype):
        return torch.randn(shape, device=device).to(dtype).requires_grad_(requires_grad)

    matrix = (batch, groups, states, length)
    return (
        *(normal(batch, dim, length) for _ in range(2)),
        (-torch.rand(dim, states, dtype=exact, device=device)).requires_grad_(requires_grad),
        *(normal(*matrix) for _ in range(2)),
        *(normal(dim, dtype=exact) for _ in range(2)),
    )


def scan(u, delta, A, B, C, D, delta_bias):
    return selective_scan(u, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=True)


def without(tensors, optional):
    """The op's own arguments, with D and delta_bias or None in their place."""
    return tensors if optional else (*tensors[:5], None, None)


class TestOpcheck:
    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize('optional', [True, False])
    @pytest.mark.parametrize('requires_grad', [True, False])
    def test_forward(self, requires_grad, optional, dtype):
        tensors = inputs(dtype=dtype, requires_grad=requires_grad)
        torch.library.opcheck(FORWARD, (*without(tensors, optional), True, 'auto'))

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize('optional', [True, False])
    def test_backward(self, optional, dtype):
        tensors = without(inputs(dtype=dtype), optional)
        out, states = FORWARD(*tensors, True, 'auto')
        torch.library.opcheck(BACKWARD, (torch.randn_like(out), *tensors, states, True, 'auto'))

    def test_empty_batch(self):
        torch.library.opcheck(FORWARD, (*inputs(batch=0, requires_grad=True), True, 'auto'))


class TestFake:
    @pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize('length', [1, 64, 65, 200])
    def test_meta_tensors_have_the_true_shapes(self, length, dtype):
        real, meta = (FORWARD(*inputs(length, dtype=dtype, device=device), True, 'auto') for device in ('cpu', 'meta'))
        for x, fake in zip(real, meta, strict=True):
            assert fake.is_meta
            assert (fake.shape, fake.dtype, fake.stride()) == (x.shape, x.dtype, x.stride())
        assert real[1].shape == (2, 4, reference.state_count(length), 2)

    def test_interface_on_meta_tensors(self):
        out, state = selective_scan(*inputs(device='meta')[:5], return_last_state=True)
        assert (out.shape, state.shape) == ((2, 4, 9), (2, 4, 2))
        assert out.is_meta
        assert state.is_meta

    def test_gradients_on_meta_tensors(self):
        tensors = inputs(device='meta', requires_grad=True)
        gradients = torch.autograd.grad(scan(*tensors).sum(), tensors)
        assert [x.shape for x in gradients] == [x.shape for x in tensors]


def test_saved_states_enter_each_chunk_and_end_the_scan():
    tensors = inputs(150, dtype=torch.float64)
    _, states = FORWARD(*tensors, True, 'auto')
    assert not states[:, :, 0].any()
    for i, stop in enumerate((64, 128, 150), 1):
        u, delta, A, B, C, D, bias = tensors
        until = (u[..., :stop], delta[..., :stop], A, B[..., :stop], C[..., :stop], D, bias)
        _, last = selective_scan(*until[:6], delta_bias=bias, delta_softplus=True, return_last_state=True)
        assert relative_error(states[:, :, i], last) < 1e-12


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_gradient_checkpointing(use_reentrant):
    tensors = inputs(70, requires_grad=True)
    expected = torch.autograd.grad(scan(*tensors).square().sum(), tensors)
    checkpoint(scan, *tensors, use_reentrant=use_reentrant).square().sum().backward()
    assert all(torch.equal(x.grad, gradient) for x, gradient in zip(tensors, expected, strict=True))


class TestCompile:
    @pytest.fixture(autouse=True)
    def _fresh(self, tmp_path, monkeypatch):
        monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path))
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @staticmethod
    def assert_same(compiled, tensors):
        def run(function):
            out = function(*tensors)
            return [out, *torch.autograd.grad(out.square().sum(), tensors)]

        for ours, expected in zip(run(compiled), run(scan), strict=True):
            assert relative_error(ours, expected) < 1e-6

    @pytest.mark.skipif(shutil.which('g++') is None, reason='inductor needs a C++ compiler')
    def test_inductor(self):
        # There is one such test, since it compiles C++; the other tests stop before inductor.
        self.assert_same(torch.compile(scan, fullgraph=True, dynamic=True), inputs(requires_grad=True))

    def test_one_graph_for_every_length(self):
        counter = CompileCounterWithBackend('aot_eager')
        compiled = torch.compile(scan, fullgraph=True, dynamic=True, backend=counter)
        for length in (130, 65, 300, 64, 9, 2):
            self.assert_same(compiled, inputs(length, requires_grad=True))
        assert counter.frame_count == 1

    def test_last_state_and_gate(self):
        def gated(z, *tensors):
            return selective_scan(*tensors[:6], z=z, delta_bias=tensors[6], return_last_state=True)

        compiled = torch.compile(gated, fullgraph=True, backend='aot_eager')
        tensors = inputs()
        z = torch.randn_like(tensors[0])
        for ours, expected in zip(compiled(z, *tensors), gated(z, *tensors), strict=True):
            assert relative_error(ours, expected) < 1e-6

    def test_errors_survive(self):
        compiled = torch.compile(scan, backend='aot_eager')
        u, *others = inputs()
        with pytest.raises(Exception, match='expected delta of shape'):
            compiled(u[:, :, :-1], *others)


def test_export_with_a_dynamic_length():
    class Scan(torch.nn.Module):
        def forward(self, *tensors):
            return scan(*tensors)

    length = torch.export.Dim('length', min=2, max=4096)
    dynamic = ({2: length}, {2: length}, None, {3: length}, {3: length}, None, None)
    program = torch.export.export(Scan(), inputs(70), dynamic_shapes=(dynamic,))
    assert [node.target for node in program.graph.nodes if 'selective_scan' in str(node.target)] == [FORWARD]
    tensors = inputs(130)
    assert torch.equal(program.module()(*tensors), scan(*tensors))


class TestFlops:
    # The paper's rule: 9 multiply-adds per channel, position and state, and one per position and
    # channel of the map for D, once for all directions (groups). The counter counts two each.
    @pytest.mark.parametrize(('states', 'groups'), [(1, 1), (1, 4), (16, 4)])
    def test_forward(self, states, groups):
        with FlopCounterMode(display=False) as counter:
            scan(*inputs(50, states, groups, batch=3, dim=8))
        assert counter.get_total_flops() / 2 == 3 * (9 * 8 * 50 * states + 8 // groups * 50)

    def test_backward_is_twice_the_forward(self):
        tensors = inputs(50, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            scan(*tensors).sum().backward()
        with FlopCounterMode(display=False) as forward:
            scan(*tensors)
        assert counter.get_total_flops() == 3 * forward.get_total_flops() > 0
