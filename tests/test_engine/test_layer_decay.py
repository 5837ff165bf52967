"""Learning rates that decay from layer to layer of a backbone, in the models of every library."""

import pytest
from helpers import SMALL_ARCH
from helpers.configs import CONFIGS, build
from helpers.segmentation import config
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmsparx.engine.layer_decay import LayerDecayOptimWrapperConstructor, check_layer_decay
from mmsparx.engine.options import apply_options, check_arguments
from mmsparx.models import SparXMamba, SparXSwin, VMamba

RATE, LR, DECAY = 0.5, 0.01, 0.1
FAMILIES = (SparXMamba, SparXSwin, VMamba)
# Depth of the first layer of each stage of SMALL_ARCH, whose stages have 1, 2, 3 and 1 layers.
FIRST = (1, 2, 4, 7)
COUNT = 9
MODELS = {
    'mmdet': str(CONFIGS / 'detection/mask_rcnn_sparx_mini_overfit.py'),
    'mmseg': config('fpn'),
    'mmpretrain': str(CONFIGS / 'classification/sparx_mamba_mini_overfit.py'),
}


def wrapper(**paramwise):
    return dict(
        constructor='mmsparx.LayerDecayOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=LR, weight_decay=DECAY),
        paramwise_cfg=dict(layer_decay_rate=RATE, **paramwise),
    )


def groups(model, cfg):
    """The group of each parameter, by the parameter's name; each parameter is in one."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optim_wrapper(model, cfg).optimizer
    found = [(names[id(x)], group) for group in optimizer.param_groups for x in group['params']]
    assert len(found) == len(dict(found))
    return dict(found)


def expected_depth(name):
    """The depth of a parameter of a model whose backbone has SMALL_ARCH."""
    _, place, name = f'.{name}'.rpartition('.backbone.')
    parts = name.split('.')
    if not place or parts[0] == 'out_norms':
        return COUNT - 1
    if parts[0] == 'stem':
        return 0
    return FIRST[int(parts[1])] + (int(parts[3]) if parts[2] == 'layers' else 0)


class TestDepths:
    @pytest.mark.parametrize('family', FAMILIES)
    def test_they_rise_from_the_stem_to_the_head(self, family):
        model = nn.ModuleDict({'backbone': family(SMALL_ARCH), 'head': nn.Linear(1, 1)})
        found = {
            name: model.backbone.get_layer_depth(name, 'backbone.') for name, _ in model.named_parameters()
        }  # fmt: skip
        assert found == {name: (expected_depth(name), COUNT) for name in found}
        assert {depth for depth, _ in found.values()} == set(range(COUNT))

    def test_without_a_prefix(self):
        assert SparXMamba(SMALL_ARCH).get_layer_depth('stages.2.layers.1.norm1.weight') == (5, COUNT)

    def test_of_stages_that_are_built(self):
        model = SparXMamba(SMALL_ARCH, out_indices=(1,))
        assert model.get_layer_depth('stages.1.layers.1.norm1.weight') == (3, 5)
        assert model.get_layer_depth('head.fc.weight', 'backbone.') == (4, 5)


@pytest.mark.parametrize('library', MODELS)
@pytest.mark.parametrize('family', FAMILIES)
def test_every_parameter_in_the_models_of_every_library(library, family):
    pytest.importorskip(library)
    cfg = Config.fromfile(MODELS[library])
    cfg.model.backbone.update(type=f'mmsparx.{family.__name__}', arch=SMALL_ARCH)
    if library == 'mmpretrain':
        cfg.model.head.update(in_channels=SMALL_ARCH['channels'][-1], style=family.STYLE)
    else:
        cfg.model.neck.in_channels = list(SMALL_ARCH['channels'])
    model = build(cfg)
    without = dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0)
    cfg.optim_wrapper = wrapper(**without)
    check_arguments(cfg)
    found = groups(model, cfg.optim_wrapper)
    assert found.keys() == {name for name, x in model.named_parameters() if x.requires_grad}
    for name, group in found.items():
        assert group['lr'] == pytest.approx(LR * RATE ** (COUNT - 1 - expected_depth(name))), name
        flat = model.get_parameter(name).ndim == 1
        assert group['weight_decay'] == (0 if flat or name.endswith('.bias') else DECAY), name
    if library != 'mmpretrain':
        return
    theirs = groups(model, wrapper(**without) | {'constructor': 'mmpretrain.LearningRateDecayOptimWrapperConstructor'})
    assert {name: (group['lr'], group['weight_decay']) for name, group in theirs.items()} == {
        name: (group['lr'], group['weight_decay']) for name, group in found.items()
    }


class TestOtherModels:
    def test_backbones_within_others(self):
        """Each backbone of a semi-supervised or tracking model has its own depths; fixed parameters are left out."""
        model = nn.Module()
        for name in ('student', 'teacher'):
            model.add_module(name, nn.ModuleDict({'backbone': SparXMamba(SMALL_ARCH), 'neck': nn.Linear(1, 1)}))
        model.teacher.requires_grad_(False)
        found = groups(model, wrapper())
        assert found.keys() == {f'student.{name}' for name, _ in model.student.named_parameters()}
        for name, group in found.items():
            assert group['lr_scale'] == RATE ** (COUNT - 1 - expected_depth(name)), name

    def test_a_backbone_alone(self):
        found = groups(SparXMamba(SMALL_ARCH), wrapper())
        assert {group['lr_scale'] for group in found.values()} == {RATE**i for i in range(COUNT)}

    def test_another_backbone_that_says_its_depths(self):
        pytest.importorskip('mmpretrain')
        from mmpretrain.models import SwinTransformer

        arch = dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
        model = nn.ModuleDict({'backbone': SwinTransformer(arch), 'head': nn.Linear(1, 1)})
        found = groups(model, wrapper())
        assert found['backbone.patch_embed.projection.weight']['lr_scale'] == RATE**5
        assert found['head.weight']['lr_scale'] == 1

    def test_a_model_without_one(self):
        with pytest.raises(ValueError, match=r'Linear has no backbone with get_layer_depth\(name, prefix\)'):
            groups(nn.Linear(1, 1), wrapper())


class TestOptions:
    def test_both_factors_count(self):
        found = groups(SparXMamba(SMALL_ARCH), wrapper(custom_keys={'stem': dict(lr_mult=3.0, decay_mult=0.0)}))
        assert found['stem.0.weight']['lr'] == pytest.approx(3 * LR * RATE ** (COUNT - 1))
        assert found['stem.0.weight']['weight_decay'] == 0

    @pytest.mark.parametrize('rate', [None, 0, 1.5, '0.9'])
    def test_no_rate(self, rate):
        cfg = wrapper()
        cfg['paramwise_cfg'] = {'layer_decay_rate': rate}
        with pytest.raises(ValueError, match='expected layer_decay_rate, a number above 0 and up to 1'):
            groups(SparXMamba(SMALL_ARCH), cfg)
        del cfg['paramwise_cfg']
        with pytest.raises(ValueError, match='expected layer_decay_rate, a number above 0 and up to 1'):
            groups(SparXMamba(SMALL_ARCH), cfg)

    def test_no_learning_rate(self):
        cfg = wrapper()
        cfg['optimizer'] = dict(type='Adadelta')
        with pytest.raises(ValueError, match='expected the learning rate lr'):
            groups(SparXMamba(SMALL_ARCH), cfg)

    @pytest.mark.parametrize(
        'constructor', [wrapper()['constructor'], LayerDecayOptimWrapperConstructor], ids=['name', 'class']
    )
    def test_a_typo(self, constructor):
        cfg = Config(dict(optim_wrapper=wrapper() | dict(constructor=constructor)))
        check_arguments(cfg)
        apply_options(cfg, {'optim_wrapper.paramwise_cfg.norm_decay_mult': 0.0})
        with pytest.raises(ValueError, match=r"has no 'norm_decay'; did you mean .*norm_decay_mult\?"):
            apply_options(cfg, {'optim_wrapper.paramwise_cfg.norm_decay': 0.0})
        cfg.optim_wrapper.paramwise_cfg = dict(layer_decay=0.9)
        with pytest.raises(TypeError, match=r"takes no 'layer_decay'; did you mean 'layer_decay_rate'\?"):
            check_arguments(cfg)


class TestConstructorsOfTheLibraries:
    @pytest.mark.parametrize(
        ('library', 'constructor', 'said'),
        [
            ('mmdet', 'LearningRateDecayOptimizerConstructor', 'knows those of other networks alone'),
            ('mmseg', 'mmseg.LearningRateDecayOptimizerConstructor', 'knows those of other networks alone'),
            ('mmdet', 'mmpretrain.LearningRateDecayOptimWrapperConstructor', 'asks MaskRCNN, which does not say'),
            ('mmseg', 'mmpretrain.LearningRateDecayOptimWrapperConstructor', 'asks EncoderDecoder, which does not say'),
            ('mmpretrain', 'mmdet.LearningRateDecayOptimizerConstructor', 'knows those of other networks alone'),
        ],
    )
    def test_those_that_do_not_know_the_layers(self, library, constructor, said):
        pytest.importorskip(library)
        cfg = Config.fromfile(MODELS[library])
        rate = dict(layer_decay_rate=0.8) if 'mmpretrain' in constructor else dict(decay_rate=0.8, num_layers=6)
        cfg.optim_wrapper.update(constructor=constructor, paramwise_cfg=rate)
        with pytest.raises(ValueError) as error:
            check_layer_decay(cfg)
        assert f'{said}, and model.backbone is SparXMamba' in str(error.value)
        assert "constructor='mmsparx.LayerDecayOptimWrapperConstructor'" in str(error.value)
        assert 'layer_decay_rate=0.8' in str(error.value)

    def test_those_that_do(self):
        pytest.importorskip('mmpretrain')
        cfg = Config.fromfile(MODELS['mmpretrain'])
        cfg.optim_wrapper.constructor = 'LearningRateDecayOptimWrapperConstructor'
        check_layer_decay(cfg)

    def test_other_backbones_are_left_to_them(self):
        pytest.importorskip('mmdet')
        cfg = Config.fromfile(MODELS['mmdet'])
        cfg.optim_wrapper.constructor = 'LearningRateDecayOptimizerConstructor'
        cfg.model.backbone = dict(type='ResNet', depth=50)
        check_layer_decay(cfg)
