"""The published networks' numbers of parameters, and an architecture from a config."""

import dataclasses
import json
import pickle

import pytest
import torch

from mmsparx.models import SparXClassifier, SparXMamba, SparXSwin, StagePlan, VMamba
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
        assert arch == Architecture((8, 16), (StagePlan(1), StagePlan(2, 1)), 3, (2, 1))
        assert Architecture.of(arch, {}) is arch

    def test_defaults_reduce_to_the_last_map(self):
        arch = Architecture((8,) * 5, (StagePlan(1),) * 5)
        assert arch.reductions == (16, 8, 4, 2, 1)
        assert arch.shortcut_scales is None  # as the style says

    def test_a_base(self):
        tiny = SparXMamba.ARCHITECTURES['tiny']
        stages = [{'depth': 2}] * 4
        arch = Architecture.of({'base': 'tiny', 'stages': stages, 'reductions': (1,) * 4}, SparXMamba.ARCHITECTURES)
        assert arch == dataclasses.replace(tiny, stages=(StagePlan(2),) * 4, reductions=(1,) * 4)
        assert Architecture.of({'base': 'tiny'}, SparXMamba.ARCHITECTURES) == tiny
        small = Architecture.of({'base': 'small', 'channels': (8,) * 4}, SparXMamba.ARCHITECTURES)
        assert (small.stem_depth, small.depth) == (3, 23)

    def test_unknown_base(self):
        with pytest.raises(ValueError, match="unknown base of arch 'huge'; known ones: tiny, small, base, or a dict"):
            Architecture.of({'base': 'huge'}, SparXMamba.ARCHITECTURES)

    @pytest.mark.parametrize('cfg', [{}, {'stages': [{'depth': 1}]}], ids=str)
    def test_sizes_are_required(self, cfg):
        with pytest.raises(ValueError, match=r'arch: expected channels.*, or a base, one of tiny, small, base'):
            Architecture.of(cfg, SparXMamba.ARCHITECTURES)

    def test_is_a_value(self):
        arch = VMamba.ARCHITECTURES['tiny_s1l8']
        assert pickle.loads(pickle.dumps(arch)) == arch
        assert hash(arch) == hash(dataclasses.replace(arch))
        assert arch != dataclasses.replace(arch, token_mixer={})

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
            ({'channels': (8, 0)}, r'channels of at least 1, got \(8, 0\)'),
            ({'reductions': (0, 1)}, r'reductions of at least 1, got \(0, 1\)'),
            ({'token_mixer': {'type': 'SS2D'}}, "a dict of options without a 'type', got {'type': 'SS2D'}"),
            ({'stem_depth': 1}, 'stem_depth of at least 2, got 1'),
            ({'stages': ({'depth': 1}, {'depth': 0})}, 'expected depth to be an integer of at least 1, got 0'),
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


class TestAsDict:
    @pytest.mark.parametrize('family', [SparXMamba, SparXSwin, VMamba])
    def test_named_sizes(self, family):
        for arch in family.ARCHITECTURES.values():
            assert Architecture.of(json.loads(json.dumps(arch.as_dict())), {}) == arch

    def test_all_fields(self):
        cfg = {
            'channels': [8, 16],
            'stages': [{'depth': 1}, {'depth': 3, 'stride': 2, 'window': 2, 'first': 1, 'input_in_window': True}],
            'stem_depth': 3,
            'reductions': [2, 2],
            'shortcut_scales': [True, False],
            'token_mixer': {'expand': 1},
        }
        assert Architecture.of(cfg, {}).as_dict() == cfg

    def test_defaults_are_left_out(self):
        cfg = {'channels': [8], 'stages': [{'depth': 2, 'stride': 1, 'dense': True}]}
        arch = Architecture.of({**cfg, 'stem_depth': 2, 'reductions': [1]}, {})
        assert arch.as_dict() == cfg
