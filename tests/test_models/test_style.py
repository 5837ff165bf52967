"""Styles of micro-blocks: as data, from configs, and in a network."""

import pickle

import pytest
import torch
from helpers import SMALL_ARCH, randomise, relative_error
from torch import nn

from mmsparx.layers.basic import FFN, ChannelScale, ConvFFN, PatchMerging, PatchStem
from mmsparx.layers.norm import ChannelLayerNorm, MapNorm
from mmsparx.models import SparXClassifier, SparXMamba, SparXNet, SparXSwin, Style, VMamba
from mmsparx.models.style import STYLES


def test_as_a_dict():
    for name, style in STYLES.items():
        assert style.as_dict() == {'type': name}
    changed = {'type': 'vmamba', 'norm': 'GN', 'position_encoding': True}
    assert Style.of(changed).as_dict() == changed


class TestOf:
    def test_a_name(self):
        assert Style.of('swin') is STYLES['swin']
        assert Style.of(STYLES['swin']) is STYLES['swin']
        assert pickle.loads(pickle.dumps(STYLES['swin'])) == STYLES['swin']

    def test_single_fields(self):
        style = Style.of({'type': 'sparx', 'position_encoding': False, 'ffn': 'plain'})
        assert (style.position_encoding, style.ffn) == (False, 'plain')
        assert (style.stem, style.shortcut_scales) == (STYLES['sparx'].stem, True)

    @pytest.mark.parametrize(
        ('cfg', 'message'),
        [
            ('convnext', "unknown style 'convnext'; known ones: sparx, vmamba, swin"),
            ({'type': 'convnext'}, "unknown style 'convnext'; known ones: sparx, vmamba, swin"),
            (None, 'unknown style None; known ones'),
            ({'ffn': 'plain'}, "style: expected a dict with a 'type', one of sparx, vmamba, swin, got {'ffn'"),
            ({'type': 'swin', 'dpe': False}, 'style: unknown field dpe; known ones: stem, downsample, norm, ffn, posi'),
            ({'type': 'swin', 'position_encoding': 'no'}, "position_encoding to be True or False, got 'no'"),
            ({'type': 'swin', 'norm': {'type': 'GN'}}, 'expected norm to be a name, got {'),
            ({'type': 'swin', 'output_norm_eps': 0.0}, 'output_norm_eps to be a float above 0, got 0.0'),
        ],
        ids=str,
    )
    def test_bad_values(self, cfg, message):
        with pytest.raises(ValueError, match=message):
            Style.of(cfg)

    @pytest.mark.parametrize(
        ('field', 'known'),
        [
            ('stem', 'conv, conv_ln, patch'),
            ('downsample', 'conv, conv_ln, patch_merging'),
            ('norm', 'BN, SyncBN, GN, LN2d'),
            ('ffn', 'conv, plain'),
        ],
    )
    def test_unknown_parts_are_refused_by_the_network(self, field, known):
        with pytest.raises(ValueError, match=f"style: unknown {field} 'nonesuch'; known ones: {known}"):
            SparXMamba(SMALL_ARCH, style={'type': 'sparx', field: 'nonesuch'})


class TestInANetwork:
    @pytest.mark.parametrize('family', [SparXMamba, SparXSwin, VMamba])
    def test_each_family_has_its_own(self, family):
        model = family(SMALL_ARCH)
        assert model.style is STYLES[{SparXMamba: 'sparx', SparXSwin: 'swin', VMamba: 'vmamba'}[family]]

    def test_parts_of_swin(self):
        model = SparXSwin(SMALL_ARCH)
        assert isinstance(model.stem, PatchStem)
        assert [type(stage.downsample) for stage in model.stages] == [type(None)] + [PatchMerging] * 3
        for layer in (layer for stage in model.stages for layer in stage.layers):
            assert layer.position is None
            assert type(layer.norm1) is type(layer.norm2) is ChannelLayerNorm
            assert isinstance(layer.ffn, FFN)
            assert isinstance(layer.scale1, nn.Identity)
        assert [norm.eps for norm in model.out_norms.values()] == [1e-5] * 4
        classifier = SparXClassifier(SparXSwin(SMALL_ARCH, out_indices=(3,), output_norm=False))
        assert isinstance(classifier.head.norm, ChannelLayerNorm)

    def test_single_fields(self):
        model = SparXMamba(SMALL_ARCH, style={'type': 'sparx', 'position_encoding': False, 'shortcut_scales': False})
        for layer in (layer for stage in model.stages for layer in stage.layers):
            assert layer.position is None
            assert isinstance(layer.scale1, nn.Identity)
            assert isinstance(layer.norm1, MapNorm)
            assert isinstance(layer.ffn, ConvFFN)

    def test_the_architecture_says_it_stage_by_stage(self):
        arch = {**SMALL_ARCH, 'shortcut_scales': (True, False, False, True)}
        for style in STYLES:
            model = SparXNet(arch, style=style)
            scaled = [isinstance(stage.layers[0].scale2, ChannelScale) for stage in model.stages]
            assert scaled == [True, False, False, True]

    def test_a_layer_without_position_encoding(self):
        layer = randomise(VMamba(SMALL_ARCH)).double().eval().stages[0].layers[0]
        x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
        y = x + layer.mixer(layer.norm1(x))
        assert relative_error(layer(x), y + layer.ffn(layer.norm2(y))) < 1e-14

    def test_a_stem_depth_that_does_not_fit(self):
        arch = {**SMALL_ARCH, 'stem_depth': 3}
        assert len([m for m in VMamba(arch).stem if isinstance(m, nn.Conv2d)]) == 3
        with pytest.raises(ValueError, match="stem_depth=3 does not fit the style, whose stem 'patch' has one convol"):
            SparXSwin(arch)


class TestTokenMixer:
    def test_options_of_the_family_stand_unless_given(self):
        model = VMamba(SMALL_ARCH, token_mixer={'type': 'SS2D', 'conv_bias': True, 'backend': 'reference'})
        mixer = model.stages[0].layers[0].mixer
        assert mixer.backend == 'reference'
        assert mixer.conv.bias is not None
        assert mixer.conv.kernel_size == (3, 3)
        assert mixer.in_proj.bias is None

    def test_options_of_the_family_are_not_for_other_mixers(self):
        mixer = VMamba(SMALL_ARCH, token_mixer={'type': 'SSM'}).stages[0].layers[0].mixer
        assert type(mixer).__name__ == 'SSM'

    def test_options_of_the_architecture(self):
        arch = {**SMALL_ARCH, 'token_mixer': {'expand': 1, 'state_size': 2}}
        mixer = SparXMamba(arch, token_mixer={'type': 'SS2D', 'state_size': 3}).stages[0].layers[0].mixer
        assert mixer.A_log.shape == (4 * 8, 3)

    def test_odd_layers_shift_their_windows(self):
        arch = {'channels': (8, 8), 'stages': [{'depth': 3}, {'depth': 2, 'stride': 1}]}
        stages = SparXSwin(arch, out_indices=(1,)).stages
        assert [[layer.mixer.shift for layer in stage.layers] for stage in stages] == [[0, 3, 0], [0, 3]]
