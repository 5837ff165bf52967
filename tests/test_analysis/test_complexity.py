"""The counter of multiply-adds, against figures computed by hand."""

import copy

import pytest
import torch
from torch import nn

from mmsparx.analysis import complexity
from mmsparx.layers.mixers import SS2D, SSM, BiSSM
from mmsparx.layers.norm import ChannelLayerNorm, MapNorm
from mmsparx.ops import selective_scan


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


class TestGate:
    def test_counts_a_multiplication_for_each_channel_and_position(self):
        """One for each direction of SSM and BiSSM."""
        batch, dim, height, width, states, rank = 2, 24, 5, 7, 3, 2
        length = height * width
        for mixer, directions in ((SSM, 1), (BiSSM, 2)):
            with torch.device('meta'):
                counted = complexity(mixer(dim, state_size=states), torch.empty(batch, dim, height, width))
            assert counted.macs_by_op == {
                'aten.mm': batch * length * dim * (3 * dim + directions * (rank + 2 * states + rank)),
                'aten.convolution': directions * batch * dim * 4 * (length + 3),
                'mmsparx.selective_scan_fwd': directions * batch * length * dim * (9 * states + 1),
                'mmsparx.selective_scan_gate': directions * batch * length * dim,
            }

    def test_of_the_function(self):
        u, A, B = torch.randn(2, 4, 9), -torch.rand(4, 3), torch.randn(2, 3, 9)

        def count(z):
            return complexity(nn.Identity(), u, forward=lambda u: 2 * selective_scan(u, u, A, B, B, z=z)).macs

        assert count(u) - count(None) == 2 * 4 * 9


class TestNorms:
    @pytest.mark.parametrize(
        ('norm', 'per_element'),
        [
            (nn.BatchNorm2d(8), 2),
            (nn.BatchNorm2d(8, affine=False), 1),
            (nn.SyncBatchNorm(8), 2),
            (nn.GroupNorm(1, 8), 5),
            (nn.GroupNorm(4, 8, affine=False), 4),
            (nn.LayerNorm(5), 5),
            (nn.LayerNorm(5, elementwise_affine=False), 4),
            (MapNorm(1, 8), 5),
            (ChannelLayerNorm(8), 5),
        ],
        ids=str,
    )
    @pytest.mark.parametrize('device', ['cpu', 'meta'])
    def test_per_element(self, norm, per_element, device):
        norm, x = copy.deepcopy(norm).to(device).eval(), torch.empty(2, 8, 3, 5, device=device)
        assert complexity(norm, x).macs == 0
        assert complexity(norm, x, norms=True).macs == per_element * x.numel()

    def test_training_statistics_make_no_difference(self):
        norm, x = nn.BatchNorm2d(8).train(), torch.randn(2, 8, 3, 5)
        assert complexity(norm, x, norms=True).macs == 2 * x.numel()

    def test_the_skip_of_every_direction(self):
        with torch.device('meta'):
            mixer, x = SS2D(16), torch.empty(2, 16, 5, 7)
            without, counted = complexity(mixer, x), complexity(mixer, x, norms=True)
        inner = 2 * 32 * 5 * 7
        assert counted.macs - without.macs == 3 * inner + 5 * inner  # the latter for the norm of the scan's output
        scan = 'mmsparx.cross_selective_scan_fwd'
        assert counted.macs_by_op[scan] - without.macs_by_op[scan] == 3 * inner

    def test_a_scan_of_sequences_has_one_skip_for_each_channel_anyway(self):
        with torch.device('meta'):
            mixer, x = SSM(16), torch.empty(2, 16, 5, 7)
            assert complexity(mixer, x).macs_by_op == complexity(mixer, x, norms=True).macs_by_op
