"""The Mask R-CNN configs: they build, have the published recipe, and match the paper's parameters and GFLOPs."""

import re

import pytest
import torch

pytest.importorskip('mmdet', reason='the detection configs stand on mmdet')
import mmdet
from helpers.configs import (
    CONFIGS,
    assert_committed_parameters,
    assert_published_decay,
    build,
    library_config,
    recipe,
    weight_decays,
)
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmsparx.analysis import two_stage_complexity
from mmsparx.models import SparXNet
from mmsparx.weights.names import VMAMBA

DETECTION = CONFIGS / 'detection'
LEAVES = sorted(path.name for path in DETECTION.glob('*.py'))
PUBLISHED = [f'mask_rcnn_sparx_{arch}_{schedule}.py' for arch in 'tsb' for schedule in ('1x', '3x')]
LAZY = 'examples/mask_rcnn_sparx_t_1x_lazy.py'
FSDP = 'examples/mask_rcnn_sparx_t_1x_fsdp.py'

# By arch: name, drop path, output channels, GFLOPs at 800x1280 and parameters in M of the paper's Table 3.
PAPER = {
    't': ('tiny', 0.2, [96, 192, 320, 512], 279, 47),
    's': ('small', 0.3, [96, 192, 328, 544], 361, 67),
    'b': ('base', 0.45, [120, 240, 396, 636], 498, 103),
}

# VMamba's configs: arch, drop path, and published file.
VMAMBAS = {
    't': ('tiny', 0.2, 'vssm_tiny_0230_ckpt_epoch_262'),
    's': ('small', 0.3, 'vssm_small_0229_ckpt_epoch_222'),
    'b': ('base', 0.6, 'vssm_base_0229_ckpt_epoch_237'),
}


def load(name: str) -> Config:
    return Config.fromfile(DETECTION / name)


@pytest.mark.parametrize('name', [*LEAVES, LAZY, FSDP])
def test_a_leaf_builds(name):
    detector = build(load(name))
    assert isinstance(detector.backbone, SparXNet)
    assert_committed_parameters(name, detector)
    assert detector.neck.in_channels == list(detector.backbone.arch.channels)


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_leaf_holds_the_published_recipe(name):
    cfg = load(name)
    arch, schedule = re.fullmatch(r'mask_rcnn_sparx_(\w)_(\dx)\.py', name).groups()
    full_name, drop_path, channels, _, _ = PAPER[arch]
    backbone = cfg.model.backbone
    assert backbone.type == 'mmsparx.SparXMamba'
    assert (backbone.arch, backbone.drop_path_rate) == (full_name, drop_path)
    assert backbone.aggregator.learnable_scale
    assert backbone.norm_cfg.type == 'SyncBN'
    address = f'https://github.com/LMMMEng/SparX/releases/download/v1/sparx_mamba_{full_name}_in1k.pth'
    assert backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': address}
    assert cfg.model.neck.in_channels == channels
    assert cfg.model.data_preprocessor.pad_size_divisor == 32
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.optimizer == {
        'type': 'AdamW', 'lr': 1e-4, 'betas': (0.9, 0.999), 'weight_decay': 0.05,
    }  # fmt: skip
    epochs, milestones = {'1x': (12, [8, 11]), '3x': (36, [27, 33])}[schedule]
    warmup, steps = cfg.param_scheduler
    assert (warmup.start_factor, warmup.end, warmup.by_epoch) == (0.001, 1000, False)
    assert (steps.milestones, steps.end, steps.gamma, steps.by_epoch) == (milestones, epochs, 0.1, True)
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr == {'enable': False, 'base_batch_size': 16}
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (1333, 800)
    assert cfg.test_evaluator.metric == ['bbox', 'segm']
    # An inferencer would import a mere name too late.
    assert cfg.custom_imports.imports == ['mmsparx.models']


@pytest.mark.parametrize('schedule', ['1x', '3x'])
@pytest.mark.parametrize('size', VMAMBAS)
def test_vmamba_has_the_same_recipe(size, schedule):
    cfg = load(f'mask_rcnn_vmamba_{size}_{schedule}.py')
    arch, drop_path, file = VMAMBAS[size]
    backbone = cfg.model.backbone
    assert (backbone.type, backbone.arch, backbone.drop_path_rate) == ('mmsparx.VMamba', arch, drop_path)
    address = f'https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/{file}.pth'
    assert backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': address}
    assert recipe(cfg) == recipe(load(f'mask_rcnn_sparx_t_{schedule}.py'))


def test_the_parameters_of_vmamba_that_do_not_decay():
    """They are those with 'norm' in their published names, which excludes stem and downsampling."""
    cfg = load('mask_rcnn_vmamba_t_1x.py')
    decays = {
        VMAMBA.to_published(name.removeprefix('backbone.')): decay
        for name, decay in weight_decays(cfg).items()
        if name.startswith('backbone.')
    }
    assert decays == {name: 0 if 'norm' in name else 0.05 for name in decays}
    assert decays['patch_embed.2.weight'] == decays['layers.0.downsample.3.weight'] == 0.05
    assert decays['outnorm0.weight'] == decays['layers.0.blocks.0.op.out_norm.weight'] == 0


def test_the_1x_pipeline():
    transforms = load('mask_rcnn_sparx_t_1x.py').train_dataloader.dataset.pipeline
    assert [t.type for t in transforms] == [
        'LoadImageFromFile',
        'LoadAnnotations',
        'Resize',
        'RandomFlip',
        'PackDetInputs',
    ]
    assert transforms[2].scale == (1333, 800)
    assert transforms[3].prob == 0.5


def test_the_3x_pipeline_is_multi_scale():
    transforms = load('mask_rcnn_sparx_t_3x.py').train_dataloader.dataset.pipeline
    names = [t.type for t in transforms]
    assert names == ['LoadImageFromFile', 'LoadAnnotations', 'RandomFlip', 'RandomChoice', 'PackDetInputs']
    whole, cropped = transforms[3].transforms
    short_sides = [(side, 1333) for side in range(480, 801, 32)]
    assert [t.type for t in whole] == ['RandomChoiceResize']
    assert whole[0].scales == cropped[2].scales == short_sides
    assert [min(scale) for scale in cropped[0].scales] == [400, 500, 600]
    assert (cropped[1].type, cropped[1].crop_type, cropped[1].crop_size) == ('RandomCrop', 'absolute_range', (384, 600))


@pytest.mark.parametrize('name', ['mask_rcnn_sparx_t_1x.py', LAZY])
def test_the_published_set_of_parameters_does_not_decay(name):
    assert_published_decay(load(name))


@pytest.mark.parametrize('arch', 'tsb')
def test_parameters_and_multiply_adds_of_the_paper(arch):
    counted = two_stage_complexity(build(load(f'mask_rcnn_sparx_{arch}_1x.py')), 800, 1280)
    assert counted.macs / 1e9 == pytest.approx(PAPER[arch][3], rel=0.01)
    assert counted.params / 1e6 == pytest.approx(PAPER[arch][4], abs=0.5)
    assert counted.macs_by_op['mmsparx.cross_selective_scan_fwd'] > 0


def test_the_counter_gives_the_papers_figure_for_swin():
    """All figures follow one convention: 267 G for mmdet's own Swin-T Mask R-CNN (Table 3)."""
    swin = library_config(mmdet, 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py')
    swin.model.backbone.init_cfg = None
    # Its drop-path rates are read from a tensor, so it is moved to the meta device after it is built.
    init_default_scope('mmdet')
    counted = two_stage_complexity(MODELS.build(swin.model).to('meta'), 800, 1280)
    assert round(counted.macs / 1e9) == 267
    assert round(counted.params / 1e6) == 48


def test_the_counter_wants_a_meta_model():
    with pytest.raises(ValueError, match='meta device'):
        two_stage_complexity(torch.nn.Linear(2, 2), 64, 64)


def test_the_lazy_config_survives_dump_and_reload(tmp_path):
    """The Runner dumps a config when it starts, and the dumped config must build the same network."""
    lazy = load(LAZY)
    lazy.dump(tmp_path / 'dumped.py')
    reloaded = Config.fromfile(tmp_path / 'dumped.py')
    shapes = [{k: v.shape for k, v in build(cfg).state_dict().items()} for cfg in (lazy, reloaded, load(PUBLISHED[0]))]
    assert shapes[0] == shapes[1] == shapes[2]
    assert reloaded.model.backbone.type == 'mmsparx.models.SparXMamba'
    named = load(PUBLISHED[0])
    for part in ('train_cfg', 'param_scheduler', 'optim_wrapper', 'train_dataloader', 'test_evaluator'):
        assert _values(lazy[part]) == _values(named[part]), part


def _values(part):
    """The settings of a config that must agree: all but types, scopes and explicit defaults."""
    if isinstance(part, dict):
        dropped = ('type', '_scope_', 'backend_args', 'format_only')
        return {k: _values(v) for k, v in part.items() if k not in dropped}
    return [_values(x) for x in part] if isinstance(part, (list, tuple)) else part
