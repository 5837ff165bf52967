"""Modules in their form for export give the same outputs, at sizes on both sides of every decision."""

import copy

import pytest
import torch

pytest.importorskip('mmengine', reason='the networks need it')
from helpers import randomise, relative_error
from helpers.networks import NETWORKS, TWO_STAGES
from torch import nn

from mmsparx.export.forms import use_forms
from mmsparx.layers.mixers import WindowAttention
from mmsparx.models import SparXNet


def in_form(module):
    module = copy.deepcopy(module)
    use_forms(module, scan_nodes=False)
    return module


@pytest.mark.parametrize('index', [0, 1])
@pytest.mark.parametrize('size', [(1, 1), (3, 3), (3, 7), (4, 3), (5, 8), (6, 9)])
def test_windows_with_and_without_a_shift(size, index):
    mixer = randomise(WindowAttention(8, index=index, window_size=3, num_heads=2)).double().eval()
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(in_form(mixer)(x), mixer(x)) < 1e-12


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (50, 36)])
def test_a_whole_network_of_windows(size):
    network = randomise(SparXNet(TWO_STAGES, out_indices=(0, 1), **NETWORKS['WindowAttention'])).double().eval()
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        for found, expected in zip(in_form(network)(x), network(x), strict=True):
            assert relative_error(found, expected) < 1e-12


@pytest.mark.parametrize('bins', [1, 2, 6, (3, 2), (None, 2)])
@pytest.mark.parametrize('size', [(1, 1), (3, 4), (4, 5), (12, 7)])
def test_adaptive_pooling(bins, size):
    pool = nn.AdaptiveAvgPool2d(bins)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    assert relative_error(in_form(pool)(x), pool(x)) < 1e-12


@pytest.mark.parametrize('align_corners', [True, False])
def test_mmsegs_upsampling(align_corners):
    utils = pytest.importorskip('mmseg.models.utils', reason='its Upsample has a form')
    part = utils.Upsample(scale_factor=2, mode='bilinear', align_corners=align_corners)
    x = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(in_form(part)(x), part(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match='by a whole factor'):
        in_form(utils.Upsample(scale_factor=1.5))(x)
