"""Activations that the backward recomputes: the same results with less memory."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import randomise
from helpers.networks import NETWORKS, TWO_STAGES
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from mmsparx.analysis import traffic
from mmsparx.analysis.saved import kept_bytes
from mmsparx.layers import recompute
from mmsparx.layers.basic import DepthwiseConv2d
from mmsparx.layers.norm import MapNorm
from mmsparx.layers.recompute import RecomputableSequential, recomputable, recomputing
from mmsparx.models import SparXNet

CPU = torch.device('cpu')
needs_hooks = pytest.mark.skipif(recompute._outer_hooks is None, reason='before torch 2.8 all is kept')


class Layer(nn.Module):
    """A norm and an activation, whose outputs are not kept, between convolutions, whose are."""

    def __init__(self, recomputes: bool = True):
        super().__init__()
        self.first = nn.Conv2d(4, 8, 1)
        self.middle = RecomputableSequential(MapNorm(1, 8), DepthwiseConv2d(8, 3, activation='gelu'), nn.BatchNorm2d(8))
        self.last = nn.Conv2d(8, 4, 1)
        self.recomputes = recomputes

    def forward(self, x):
        return recomputing(self._forward, x) if self.recomputes else self._forward(x)

    def _forward(self, x):
        return self.last(recomputable(F.silu, self.middle(self.first(x))))


@pytest.fixture
def layers():
    """The layer and its twin that keeps everything, in float64."""
    torch.manual_seed(0)
    layer = randomise(Layer().double())
    plain = copy.deepcopy(layer)
    plain.recomputes = False
    return layer, plain


def kept_in_forward(function, x):
    return kept_bytes(lambda: function(x), CPU)


def gradients(layer, x, run=None):
    out = (layer if run is None else run)(x)
    leaves = [x, *layer.parameters()]
    for leaf in leaves:
        leaf.grad = None
    out.sin().sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves), *(b.clone() for b in layer.buffers())]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize('training', [True, False])
def test_the_same_bits_and_statistics(layers, training):
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    found, expected = (gradients(layer.train(training), x) for layer in layers)
    assert_equal(found, expected)


@needs_hooks
def test_bytes_that_are_kept(layers):
    """The layer keeps the first convolution's output, its own output, and statistics; x is not the layer's.

    The plain layer keeps the outputs of the norm, the depthwise convolution, the batch norm and SiLU as well.
    """
    x = torch.randn(2, 4, 32, 32, dtype=torch.float64, requires_grad=True)
    channel = x[:, 0].nbytes
    found, expected = (kept_in_forward(layer, x) / channel for layer in layers)
    assert 8 + 4 <= found < 12.5
    assert 5 * 8 + 4 <= expected < 44.5


def test_a_graph_can_be_used_again(layers):
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    layer, _ = layers
    out = layer(x).sin().sum()
    inputs = [x, *layer.parameters()]
    first = torch.autograd.grad(out, inputs, retain_graph=True)
    torch.autograd.grad(out, inputs[-1:], retain_graph=True)  # part of the graph
    assert_equal(torch.autograd.grad(out, inputs), first)


def test_second_derivatives(layers):
    x = torch.randn(1, 4, 4, 3, dtype=torch.float64, requires_grad=True)
    layer = layers[0].eval()
    assert torch.autograd.gradgradcheck(layer, x)


@needs_hooks
def test_inputs_that_were_modified_are_refused(layers):
    layer, _ = layers
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
    h = x * 1
    out = recomputing(lambda h: layer.last(recomputable(F.silu, layer.first(h))), h)
    out.sum().backward(retain_graph=True)

    kept = x * 1

    def forward(h):
        return recomputable(torch.neg, h).square()  # neg keeps nothing: only the recipe has h

    out = recomputing(forward, kept)
    kept.add_(1)
    with pytest.raises(RuntimeError, match=r'of shape \(2, 4, 6, 5\), is at version 1, expected version 0'):
        out.sum().backward()


def test_outputs_that_were_modified_are_kept():
    """An operation's input is no longer the tensor that the function returned."""
    x = torch.randn(5, requires_grad=True)

    def forward(x):
        return recomputable(torch.neg, x).mul_(3).square().sum()

    (gradient,) = torch.autograd.grad(recomputing(forward, x), x)
    torch.testing.assert_close(gradient, 18 * x.detach())


@needs_hooks
def test_a_tuple():
    """Each part is recomputed; the gradient of a part is not padded with zeros."""
    x = torch.randn(2, 8, 32, 32, requires_grad=True)

    def forward(x):
        first, second = recomputable(partial(torch.chunk, chunks=2, dim=1), recomputable(F.gelu, x))
        return (first * second.sin()).sum()

    (expected,) = torch.autograd.grad(forward(x), x)
    kept = kept_in_forward(partial(recomputing, forward), x)
    assert kept < kept_in_forward(forward, x) - x.nbytes / 2
    out = recomputing(forward, x)
    found = traffic(lambda: out.backward())
    assert torch.equal(x.grad, expected)
    assert found.calls['aten.cat'] == 1
    assert found.calls['aten.slice_backward'] == found.calls['aten.add'] == 0


class TestWhoElseDecides:
    """Other mechanisms decide what is kept."""

    @pytest.mark.parametrize(
        'wrap',
        [
            pytest.param(lambda layer: lambda x: checkpoint(layer, x, use_reentrant=False), id='checkpoint'),
            pytest.param(lambda layer: lambda x: checkpoint(layer, x, use_reentrant=True), id='reentrant checkpoint'),
            pytest.param(lambda layer: torch.compile(layer, backend='aot_eager', fullgraph=True), id='compile'),
        ],
    )
    def test_same_gradients(self, layers, wrap):
        layer, plain = (each.eval() for each in layers)
        x = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
        for a, b in zip(gradients(layer, x, wrap(layer)), gradients(plain, x), strict=True):
            torch.testing.assert_close(a, b)

    def test_a_checkpoint_keeps_its_input_alone(self, layers):
        x = torch.randn(2, 4, 32, 32, dtype=torch.float64, requires_grad=True)
        kept = kept_in_forward(partial(checkpoint, layers[0], use_reentrant=False), x)
        assert kept / x[:, 0].nbytes < 4.5  # its output

    def test_other_hooks_see_all(self, layers):
        x = torch.randn(2, 4, 6, 5, dtype=torch.float64, requires_grad=True)
        seen = []
        for layer in layers:
            shapes = []
            with saved_tensors_hooks(lambda x, shapes=shapes: shapes.append(x.shape) or x, lambda x: x):
                layer(x)
            seen.append(shapes)
        assert seen[0] == seen[1]
        with save_on_cpu():
            found = gradients(layers[0], x)
        assert_equal(found[:2], gradients(layers[1], x)[:2])

    def test_torch_func(self, layers):
        layer, plain = (each.eval() for each in layers)
        x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
        found, expected = (torch.func.grad(lambda x, f=f: f(x).sin().sum())(x) for f in (layer, plain))
        torch.testing.assert_close(found, expected)
        found, expected = (torch.func.jvp(f, (x,), (x.cos(),))[1] for f in (layer, plain))
        torch.testing.assert_close(found, expected)

    def test_forward_mode(self, layers):
        layer, plain = (each.eval() for each in layers)
        x = torch.randn(1, 4, 3, 3, dtype=torch.float64)
        tangents = []
        for each in (layer, plain):
            with torch.autograd.forward_ad.dual_level():
                dual = torch.autograd.forward_ad.make_dual(x, x.cos())
                tangents.append(torch.autograd.forward_ad.unpack_dual(each(dual)).tangent)
        torch.testing.assert_close(*tangents)

    def test_without_gradients(self, layers):
        x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
        with torch.no_grad():
            assert torch.equal(layers[0](x), layers[1](x))


class TestModulesThatAreKept:
    """A module that draws numbers, changes state, or has hooks runs once."""

    @pytest.fixture(autouse=True)
    def _seed(self):
        torch.manual_seed(0)

    def calls_of(self, module, x):
        """How often a forward and a backward run the module's forward."""
        calls = []
        forward = module.forward
        module.forward = lambda x: calls.append(1) or forward(x)
        recomputing(lambda x: recomputable(module, x).square().sum(), x).backward()
        return len(calls)

    @needs_hooks
    def test_who_runs_again(self):
        x = torch.randn(2, 4, 6, 5, requires_grad=True)

        class Noisy(DepthwiseConv2d):
            def forward(self, x):
                return F.dropout(super().forward(x))

        assert self.calls_of(DepthwiseConv2d(4, 3), x) == 2
        assert self.calls_of(Noisy(4, 3), x) == 1
        assert self.calls_of(nn.Dropout(0.5), x) == 1
        assert self.calls_of(nn.BatchNorm2d(4), x) == 1  # its statistics are counted once; see below

    def test_hooks_see_one_call_and_may_change_it(self):
        module = DepthwiseConv2d(4, 3)
        calls = []
        module.register_forward_hook(lambda module, inputs, out: calls.append(1) or 2 * out)
        x = torch.randn(2, 4, 6, 5, requires_grad=True)
        (found,) = torch.autograd.grad(recomputing(lambda x: recomputable(module, x).square().sum(), x), x)
        (expected,) = torch.autograd.grad(module(x).square().sum(), x)
        assert torch.equal(found, expected)
        assert len(calls) == 2

    def test_a_batch_norm_counts_a_batch_once(self):
        norm = randomise(nn.BatchNorm2d(4))
        twin = copy.deepcopy(norm)
        x = torch.randn(2, 4, 6, 5, requires_grad=True)
        (found,) = torch.autograd.grad(recomputing(lambda x: recomputable(norm, x).square().sum(), x), x)
        (expected,) = torch.autograd.grad(twin(x).square().sum(), x)
        assert torch.equal(found, expected)
        assert_equal([*norm.buffers()], [*twin.buffers()])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_the_forward(dtype):
    """The backward runs outside autocast, and on other threads."""
    torch.manual_seed(0)
    layer = Layer()
    plain = copy.deepcopy(layer)
    plain.recomputes = False
    x = torch.randn(2, 4, 6, 5)
    results = []
    for each in (layer, plain):
        with torch.autocast('cpu', dtype):
            out = each(x)
        out.float().sin().sum().backward()
        results.append([out, *(p.grad for p in each.parameters())])
    assert_equal(*results)


@needs_hooks
@pytest.mark.parametrize('name', NETWORKS)
def test_networks(name, monkeypatch):
    """Every mixer and aggregator: the same bits, less memory."""
    torch.manual_seed(0)
    model = randomise(SparXNet(TWO_STAGES, out_indices=(0, 1), drop_path_rate=0.3, **NETWORKS[name]))
    plain = copy.deepcopy(model)
    images = torch.randn(2, 3, 40, 32)

    def step(model):
        torch.manual_seed(1)
        sum(out.sin().sum() for out in model(images)).backward()
        return [*(p.grad for p in model.parameters()), *(b.clone() for b in model.buffers())]

    found, kept = step(model), kept_in_forward(model, images)
    monkeypatch.setattr('mmsparx.layers.recompute._applies', lambda: False)
    assert_equal(found, step(plain))
    assert kept < 0.85 * kept_in_forward(plain, images)
