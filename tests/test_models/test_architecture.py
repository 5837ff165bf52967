"""The published networks' numbers of parameters, and an architecture from a config."""

import pytest
import torch

from mmsparx.models import SparXClassifier, SparXMamba, StagePlan
from mmsparx.models.architecture import Architecture

PARAMETERS = {'tiny': 27_051_794, 'small': 47_444_712, 'base': 83_536_168}


@pytest.mark.parametrize('name', PARAMETERS)
def test_published_numbers_of_parameters(name):
    with torch.device('meta'):
        model = SparXClassifier(SparXMamba(name, out_indices=(3,), output_norm=False))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


class TestOf:
    def test_a_dict(self):
        cfg = {'channels': [8, 16], 'stages': [{'depth': 1}, {'depth': 2, 'stride': 1}], 'stem_depth': 3}
        arch = Architecture.of(cfg, {})
        assert arch == Architecture((8, 16), (StagePlan(1), StagePlan(2, 1)), 3, (2, 1), (False, False))
        assert Architecture.of(arch, {}) is arch

    def test_defaults_reduce_to_the_last_map(self):
        arch = Architecture((8,) * 5, (StagePlan(1),) * 5)
        assert arch.reductions == (16, 8, 4, 2, 1)
        assert arch.shortcut_scales == (False, False, True, True, True)

    def test_unknown_name(self):
        with pytest.raises(
            ValueError, match="unknown arch 'huge'; known ones: tiny, small, base, or a dict of channels, s"
        ):
            Architecture.of('huge', SparXMamba.ARCHITECTURES)

    def test_unknown_field(self):
        with pytest.raises(
            ValueError, match='unknown field depths; known ones: channels, stages, stem_depth, reductions'
        ):
            Architecture.of({'channels': (8,), 'stages': ({'depth': 1},), 'depths': (1,)}, {})

    @pytest.mark.parametrize(
        ('changes', 'message'),
        [
            ({'channels': (8,)}, r'one entry of channels per stage, got \(8,\) for 2'),
            ({'reductions': (4, 2, 1)}, r'one entry of reductions per stage, got \(4, 2, 1\) for 2'),
            ({'shortcut_scales': (True,)}, r'one entry of shortcut_scales per stage, got \(True,\) for 2'),
            ({'channels': (), 'stages': ()}, r'one entry of channels per stage, got \(\) for 0'),
            ({'stem_depth': 1}, 'stem_depth of at least 2, got 1'),
            ({'stages': ({'depth': 1}, {'depth': 0})}, 'expected depth to be a whole number of at least 1, got 0'),
        ],
        ids=str,
    )
    def test_bad_values(self, changes, message):
        with pytest.raises(ValueError, match=message):
            Architecture(**({'channels': (8, 16), 'stages': ({'depth': 1}, {'depth': 2})} | changes))

    def test_prints_the_plan(self):
        assert str(Architecture((8, 16), (StagePlan(1), StagePlan(2, 1)))) == (
            'stage 1: 8 channels, 1 layers\n  . 0\n'
            'stage 2: 16 channels, 2 layers, S=1, M=all\n  G 0 <- input\n  G 1 <- 0'
        )
