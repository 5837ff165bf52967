"""Folding for inference computes the same up to rounding."""

from itertools import pairwise

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine', reason='the networks need it')
from helpers import randomise, relative_error
from helpers.networks import NETWORKS, TWO_STAGES

from mmsparx.export.fold import FoldedLayer, fold
from mmsparx.layers.basic import DepthwiseConv2d
from mmsparx.layers.norm import BatchNorm
from mmsparx.models import SparXNet
from mmsparx.registry import TOKEN_MIXERS


def make(name, **options):
    arch = {**TWO_STAGES, 'shortcut_scales': (True, True)}
    return randomise(SparXNet(arch, out_indices=(0, 1), **{**NETWORKS[name], **options})).double().eval()


@pytest.mark.parametrize('name', NETWORKS)
def test_a_folded_network_computes_the_same(name):
    network = make(name)
    folded = fold(network)
    x = torch.randn(2, 3, 36, 44, dtype=torch.float64)
    with torch.no_grad():
        for found, expected in zip(folded(x), network(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * expected.abs().max().item())
    assert not any(isinstance(m, BatchNorm) for m in folded.modules())
    assert not any(m.residual for m in folded.modules() if isinstance(m, DepthwiseConv2d))
    for sequence in (m for m in folded.modules() if isinstance(m, nn.Sequential)):
        parts = [m for m in sequence if not isinstance(m, nn.Identity)]
        assert not any(isinstance(a, DepthwiseConv2d) and isinstance(b, nn.GELU) for a, b in pairwise(parts))
    layers = [m for m in folded.modules() if isinstance(m, FoldedLayer)]
    assert len(layers) == 4
    assert all(layer.scale1.bias is None and layer.scale2.bias is None for layer in layers)


@pytest.mark.parametrize('converted', [False, True], ids=['autocast', 'converted'])
def test_a_folded_network_in_16_bits(converted):
    """Its shortcuts have 16 bits, too."""
    folded = fold(make('SS2D').float())
    x = torch.randn(1, 3, 36, 44)
    with torch.no_grad():
        expected = folded(x)
        if converted:
            outs = folded.to(torch.bfloat16)(x.bfloat16())
        else:
            with torch.autocast('cpu', torch.bfloat16):
                outs = folded(x)
    assert all(out.dtype == torch.bfloat16 for out in outs)
    assert all(relative_error(a, b) < 3e-2 for a, b in zip(outs, expected, strict=True))


@pytest.mark.parametrize('activation', [nn.GELU(), nn.GELU('tanh'), nn.SiLU()], ids=repr)
def test_activations_after_depthwise_convolutions(activation):
    network = nn.Sequential(DepthwiseConv2d(4, 3), activation).double()
    folded = fold(network)
    assert isinstance(folded[1], nn.Identity) == (repr(activation) == repr(nn.GELU()))
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-12, atol=1e-12)


def test_the_network_itself_stays_as_it_is():
    network = make('SS2D')
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fold(network)
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


class Doubling(nn.Module):
    """A mixer that is unknown to the package."""

    def __init__(self, dim, aggregator=None, *, index=0):
        super().__init__()

    def forward(self, x, *sources):
        return 2 * x


def test_the_bias_stays_beside_an_unknown_mixer(monkeypatch):
    monkeypatch.setitem(TOKEN_MIXERS._module_dict, 'Doubling', Doubling)
    network = make('SS2D', token_mixer={'type': 'Doubling'})
    folded = fold(network)
    x = torch.randn(1, 3, 36, 44, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), rtol=1e-12, atol=1e-12)
    layers = [m for m in folded.modules() if isinstance(m, FoldedLayer)]
    assert all(layer.scale1.bias is not None and layer.scale2.bias is None for layer in layers)


def test_convolutions_of_mmcv_are_folded():
    cnn = pytest.importorskip('mmcv.cnn', reason='its ConvModule is folded')
    module = randomise(cnn.ConvModule(3, 4, 3, norm_cfg=dict(type='BN'))).double().eval()
    folded = fold(nn.Sequential(module))
    x = torch.randn(1, 3, 8, 9, dtype=torch.float64)
    torch.testing.assert_close(folded(x), module(x), rtol=1e-12, atol=1e-12)
    assert not any(isinstance(m, BatchNorm) for m in folded.modules())
