"""Multiply-adds by the paper's rule: computed here from the sizes, counted on the network."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmsparx.models import SparXClassifier, SparXMamba

# The paper's rule applied to the published networks, in GFLOPs, to the digits known.
KNOWN = [
    ('tiny', 224, 5.25, 2),
    ('tiny', 384, 15.4, 1),
    ('tiny', 512, 27.4, 1),
    ('tiny', 640, 42.8, 1),
    ('tiny', 768, 61.7, 1),
    ('tiny', 1024, 109.6, 1),
    ('small', 224, 9.25, 2),
    ('base', 224, 15.9, 1),
]


def layer_macs(dim, sources, positions, reduced, scaled):
    """Multiply-adds of one layer; `sources` is 0 in a normal layer, `reduced` is N'."""
    inner, rank = 2 * dim, math.ceil(dim / 16)
    per_position = 9 * dim  # DPE
    per_position += 2 * dim if scaled else 0
    per_position += 2 * (dim * 4 * dim) + 9 * 4 * dim  # FFN
    per_position += 25 * inner + inner * dim  # SS2D's convolution and output projection
    per_position += 4 * (rank + 2) * inner + 4 * rank * inner  # x_proj, dt_proj
    per_position += 4 * 9 * inner + inner  # the scan
    if not sources:
        return positions * (per_position + dim * inner)
    per_position += 9 * sources * dim + sources * dim * 2 * dim  # W1
    per_position += dim * dim  # v
    per_position += dim * dim // 4  # attention times v
    per_position += 9 * 3 * dim + dim * (3 * (inner // 3))  # the depthwise and the grouped convolution
    stride = math.isqrt(positions // reduced)
    reducer = (stride + 1) ** 2 * dim if stride > 1 else 0
    per_reduced = 2 * (reducer + dim * dim)  # q and k
    per_reduced += dim * dim // 4  # q times k
    return positions * per_position + reduced * per_reduced


def network_macs(arch, side):
    """Multiply-adds of the classifier on an image whose side is a multiple of 32."""
    first = arch.channels[0]
    macs = (side // 2) ** 2 * 9 * (3 * first // 2 + (arch.stem_depth - 2) * (first // 2) ** 2)
    macs += (side // 4) ** 2 * 9 * first // 2 * first
    for i, (dim, plan) in enumerate(zip(arch.channels, arch.stages, strict=True)):
        positions = (side // (4 * 2**i)) ** 2
        for layer in range(plan.depth):
            macs += layer_macs(dim, len(plan.sources(layer)), positions, (side // 32) ** 2, i >= 2)
        if i < 3:
            macs += positions // 4 * 9 * dim * arch.channels[i + 1]
    return macs + arch.channels[-1] * 1000


@pytest.fixture(scope='module')
def networks():
    with torch.device('meta'):
        return {
            name: SparXClassifier(SparXMamba(name, out_indices=(3,), output_norm=False)).eval()
            for name in SparXMamba.ARCHITECTURES
        }


@pytest.mark.parametrize(('name', 'side', 'known', 'digits'), KNOWN)
def test_counted(name, side, known, digits, networks):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        networks[name](torch.empty(1, 3, side, side, device='meta'))
    macs = counter.get_total_flops() / 2  # it counts two per multiply-add
    assert macs == network_macs(networks[name].backbone.arch, side)
    assert round(macs / 1e9, digits) == known
