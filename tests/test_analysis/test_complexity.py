"""The one counter of multiply-adds, against figures worked out by hand."""

import torch
from torch import nn

from mmsparx.analysis import complexity
from mmsparx.layers.mixers import SS2D


def test_convolutions_and_linear_layers():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    )
    counted = complexity(model.eval(), torch.zeros(2, 3, 6, 6))
    assert counted.macs_by_op == {'aten.convolution': 2 * 8 * 3 * 9 * 36, 'aten.addmm': 2 * 8 * 36 * 5}
    assert counted.macs == 2 * 8 * 3 * 9 * 36 + 2 * 8 * 36 * 5
    assert counted.params == (3 * 8 * 9 + 8) + 16 + (8 * 36 * 5 + 5)
    assert 'aten.convolution' in str(counted)


def test_the_scan_counts_as_the_paper_counts_it():
    """4 directions of 9 L D n and R L D for the step's projection, and L D for the skip."""
    dim, length, states, rank = 2 * 16, 5 * 7, 3, 1
    with torch.device('meta'):
        mixer = SS2D(16, state_size=states)
        counted = complexity(mixer, torch.empty(2, 16, 5, 7))
    scan = 4 * 9 * length * dim * states + 4 * rank * length * dim + length * dim
    assert counted.macs_by_op['mmsparx.cross_selective_scan_fwd'] == 2 * scan


def test_another_forward():
    model = nn.Linear(4, 2)
    assert complexity(model, torch.zeros(1, 4), forward=lambda x: model(model(x).repeat(1, 2))).macs == 16
