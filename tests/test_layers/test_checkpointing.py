"""Gradient checkpointing: the same output, gradients and running statistics."""

import copy
import shutil
from functools import partial
from typing import ClassVar

import pytest
import torch
from helpers import randomise
from torch import nn

from mmsparx.layers.aggregators import DMCA
from mmsparx.layers.checkpointing import checkpointed
from mmsparx.models import SparXNet


def test_a_batch_counts_once():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    recomputed = copy.deepcopy(plain)
    calls = []
    recomputed[0].register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    results = []
    for run in (plain, lambda x: checkpointed(recomputed, x)):
        torch.manual_seed(0)
        out = run(x)
        results.append((out, *torch.autograd.grad(out.square().sum(), x)))
    assert len(calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    state = plain.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in recomputed.state_dict().items())
    assert state['1.num_batches_tracked'] == 1


class TestCompiled:
    """Compiled or not, checkpointed or not: the same gradients, and each batch counted once."""

    ARCH: ClassVar = {'channels': (4, 8), 'stages': [{'depth': 1}, {'depth': 2, 'stride': 1, 'first': 1}]}

    @pytest.fixture(autouse=True)
    def _fresh(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def run(self, with_cp, prepare, autocast=False):
        """Gradients and buffers after two steps."""
        torch.manual_seed(0)
        model = SparXNet(self.ARCH, out_indices=(1,), with_cp=with_cp)
        run = prepare(model)
        for _ in range(2):
            model.zero_grad()
            with torch.autocast('cpu', enabled=autocast):
                (out,) = run(torch.randn(2, 3, 20, 20))
            out.float().square().mean().backward()
        counters = {int(value) for name, value in model.named_buffers() if name.endswith('num_batches_tracked')}
        assert counters == {2}
        return [p.grad for p in model.parameters()], list(model.buffers())

    def assert_same(self, found, expected, tolerance=1e-5):
        for ours, theirs in zip(found, expected, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
    def test_one_graph(self, backend):
        expected = self.run(False, lambda model: model)
        self.assert_same(self.run(True, partial(torch.compile, backend=backend, fullgraph=True)), expected)

    @pytest.mark.skipif(shutil.which('g++') is None, reason='inductor needs a C++ compiler')
    def test_attention_by_inductor(self):
        """inductor fuses what it takes for scaled_dot_product_attention: garbage in torch 2.11 if it is recomputed."""
        torch.manual_seed(0)
        layer = randomise(DMCA(8, 16, sources=1, reduction=1, norm_cfg={'type': 'BN'}))
        inputs = [torch.randn(2, 8, 4, 4) for _ in range(2)]

        def run(forward):
            layer.zero_grad()
            out = forward(*inputs)
            out.square().mean().backward()
            return [[out.detach()], [p.grad for p in layer.parameters()]]

        expected = run(layer)
        self.assert_same(run(torch.compile(partial(checkpointed, layer), fullgraph=True)), expected, tolerance=1e-4)

    def test_autocast(self):
        compiled = self.run(True, partial(torch.compile, backend='aot_eager'), autocast=True)
        self.assert_same(compiled, self.run(False, lambda model: model, autocast=True), tolerance=2e-2)

    def test_layers_compiled_one_by_one(self):
        def compile_layers(model):
            for stage in model.stages:
                for layer in stage.layers:
                    layer.compile(backend='aot_eager')
            return model

        self.assert_same(self.run(True, compile_layers), self.run(False, lambda model: model))
