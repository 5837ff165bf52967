"""The ImageNet configs: they build, have the published recipe, and match the paper's parameters and GFLOPs."""

from functools import cache

import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain', reason='the classification configs stand on mmpretrain')
from helpers import oracle_shapes
from helpers.configs import CONFIGS, assert_committed_parameters, build, recipe, weight_decays
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import PARAM_SCHEDULERS, TRANSFORMS, init_default_scope

from mmsparx.analysis import complexity
from mmsparx.layers.norm import build_norm
from mmsparx.models import SparXNet
from mmsparx.weights.names import convert_names

CLASSIFICATION = CONFIGS / 'classification'
LEAVES = sorted(path.name for path in CLASSIFICATION.glob('*.py'))
PUBLISHED = [f'sparx_mamba_{arch}_in1k.py' for arch in 'tsb']

# By arch: name, drop path, side to which images are resized, parameters, and the paper's GFLOPs at 224 (Table 2).
PAPER = {
    't': ('tiny', 0.2, 248, 27_051_794, 5.2),
    's': ('small', 0.3, 235, 47_444_712, 9.3),
    'b': ('base', 0.5, 235, 83_536_168, 15.9),
}

# The other configs: family, arch, drop path, and the side to which images are resized.
OTHERS = {
    'sparx_mamba_t_ssm': ('SparXMamba', 'tiny', 0.2, 248),
    'sparx_mamba_t_bi_ssm': ('SparXMamba', 'tiny', 0.2, 248),
    'sparx_swin_t': ('SparXSwin', 'tiny', 0.2, 248),
    'sparx_swin_b': ('SparXSwin', 'base', 0.5, 235),
    'vmamba_t': ('VMamba', 'tiny', 0.2, 256),
    'vmamba_t_s1l8': ('VMamba', 'tiny_s1l8', 0.2, 256),
    'vmamba_s': ('VMamba', 'small', 0.3, 256),
    'vmamba_b': ('VMamba', 'base', 0.6, 256),
}


@cache
def load(name: str) -> Config:
    """A cached config, which tests must not change."""
    return Config.fromfile(CLASSIFICATION / name)


@pytest.fixture(scope='module', params='tsb')
def published(request):
    """A published leaf: its letter, its config, and its model on the meta device."""
    cfg = load(f'sparx_mamba_{request.param}_in1k.py')
    return request.param, cfg, build(cfg)


@pytest.mark.parametrize('name', LEAVES)
def test_a_leaf_builds(name):
    cfg = load(name)
    classifier = build(cfg)
    assert isinstance(classifier.backbone, SparXNet)
    assert_committed_parameters(cfg.filename, classifier)
    assert isinstance(classifier.head.norm, type(build_norm(1, {'type': classifier.backbone.style.norm})))
    assert classifier.head.fc.in_features == classifier.backbone.arch.channels[-1]
    assert classifier.head.fc.out_features == cfg.data_preprocessor.num_classes
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        Compose([TRANSFORMS.build(transform) for transform in cfg[loader].dataset.pipeline])


def test_parameters_and_multiply_adds_of_the_paper(published):
    arch, _, model = published
    counted = complexity(model.eval(), torch.empty(1, 3, 224, 224, device='meta'))
    assert counted.params == PAPER[arch][3]
    assert counted.macs / 1e9 == pytest.approx(PAPER[arch][4], rel=0.01)
    assert counted.macs_by_op['mmsparx.cross_selective_scan_fwd'] > 0


def test_the_published_set_of_parameters_does_not_decay(published):
    """These are parameters with at most one axis, and biases; all parameters with two axes decay."""
    arch, cfg, model = published
    decays = weight_decays(cfg)
    names = convert_names(model.state_dict(), 'published')
    decays = {names[name]: decay for name, decay in decays.items()}
    buffers = ('running_mean', 'running_var', 'num_batches_tracked')
    shapes = {name: shape for name, shape in oracle_shapes(arch).items() if not name.endswith(buffers)}
    spared = {name for name, shape in shapes.items() if len(shape) <= 1 or name.endswith('.bias')}
    assert decays == {name: 0 if name in spared else 0.05 for name in shapes}
    decaying = {name.rpartition('.')[2] for name in shapes if name not in spared}
    assert decaying >= {'A_logs', 'dt_projs_bias', 'x_proj_weight'}
    assert any(name.endswith('layerscale_1.weight') and name not in spared for name in shapes)


def test_the_recipe(published):
    arch, cfg, _ = published
    name, drop_path, resize, *_ = PAPER[arch]
    backbone = cfg.model.backbone
    assert (backbone.type, backbone.arch, backbone.drop_path_rate) == ('mmsparx.SparXMamba', name, drop_path)
    assert backbone.norm_cfg.type == 'SyncBN'
    assert 'init_cfg' not in backbone
    assert cfg.model.head.loss == {'type': 'LabelSmoothLoss', 'label_smooth_val': 0.1, 'mode': 'original'}
    assert cfg.model.train_cfg == {'augments': [{'type': 'Mixup', 'alpha': 0.8}, {'type': 'CutMix', 'alpha': 1.0}]}
    wrapper = cfg.optim_wrapper
    assert (wrapper.type, wrapper.clip_grad) == ('AmpOptimWrapper', {'max_norm': 5.0})
    assert wrapper.optimizer == {'type': 'AdamW', 'lr': 4e-3, 'betas': (0.9, 0.999), 'weight_decay': 0.05}
    assert cfg.train_cfg == {'by_epoch': True, 'max_epochs': 310, 'val_interval': 1}
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 2048
    assert cfg.train_dataloader.sampler.type == 'DefaultSampler'  # no repeated augmentation
    (ema,) = (hook for hook in cfg.custom_hooks if hook.type == 'EMAHook')
    assert (ema.ema_type, ema.momentum, ema.update_buffers) == ('ExponentialMovingAverage', 2e-4, True)
    assert [hook.type for hook in cfg.custom_hooks[:3]] == [
        f'mmsparx.{hook}Hook' for hook in ('IterationSeed', 'NaNGuard', 'StrictLoad')
    ]
    assert cfg.default_hooks.checkpoint.type == 'mmsparx.SafeCheckpointHook'
    # An inferencer would import a mere name too late.
    assert cfg.custom_imports.imports == ['mmsparx.models']
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        _, to, crop, _ = loader.dataset.pipeline
        assert (to.type, to.scale, to.edge, to.interpolation, to.backend) == (
            'ResizeEdge', resize, 'short', 'bicubic', 'pillow',
        )  # fmt: skip
        assert (crop.type, crop.crop_size) == ('CenterCrop', 224)
        assert loader.dataset.split == 'val'


@pytest.mark.parametrize('name', OTHERS)
def test_the_recipe_of_the_others_is_the_same(name):
    """The drop path and the size of the tested image differ, and Swin's table of biases does not decay."""
    family, arch, drop_path, resize = OTHERS[name]
    cfg, reference = load(f'{name}_in1k.py'), load(PUBLISHED[0])
    backbone = cfg.model.backbone
    assert (backbone.type, backbone.arch, backbone.drop_path_rate) == (f'mmsparx.{family}', arch, drop_path)
    assert 'init_cfg' not in backbone
    ours, theirs = recipe(cfg), recipe(reference)
    for part in (ours, theirs):
        for loader in ('val_dataloader', 'test_dataloader'):
            _, to, *_ = part[loader]['dataset']['pipeline']
            assert to.pop('scale') == (resize if part is ours else 248)
        part.pop('test_pipeline')
    if family == 'SparXSwin':
        decays = weight_decays(cfg)
        tables = {key: decay for key, decay in decays.items() if key.endswith('relative_position_bias_table')}
        assert len(tables) == sum(stage.depth for stage in build(cfg).backbone.arch.stages)
        assert set(tables.values()) == {0}
        for key in ('qkv.weight', 'ffn.fc1.weight'):
            assert {decay for each, decay in decays.items() if each.endswith(key)} == {0.05}
        assert ours['optim_wrapper'].pop('paramwise_cfg').pop('flat_decay_mult') == 0
        theirs['optim_wrapper'].pop('paramwise_cfg')
    assert ours == theirs


def learning_rates(cfg: Config) -> list[float]:
    """The learning rate of each epoch."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(()))], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = [PARAM_SCHEDULERS.build(part, default_args={'optimizer': optimizer}) for part in cfg.param_scheduler]
    found = []
    for _ in range(cfg.train_cfg.max_epochs):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return found


def test_the_learning_rates():
    found = learning_rates(load(PUBLISHED[0]))
    assert found[0] == pytest.approx(1e-6)
    assert found[20] == max(found)
    # 1e-5 + (4e-3 - 1e-5) (1 + cos(pi epoch / 300)) / 2
    known = {20: 3.9564e-3, 75: 3.4157e-3, 150: 2.005e-3, 225: 5.9430e-4, 299: 1.0109e-5, 300: 1e-5, 309: 1e-5}
    assert {epoch: found[epoch] for epoch in known} == pytest.approx(known, rel=1e-4)


def test_the_learning_rates_are_those_of_timm():
    scheduler = pytest.importorskip('timm.scheduler', reason='the published runs used its schedule')
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(()))], lr=4e-3)
    timm = scheduler.CosineLRScheduler(optimizer, t_initial=300, lr_min=1e-5, warmup_t=20, warmup_lr_init=1e-6)
    found = learning_rates(load(PUBLISHED[0]))
    expected = [timm._get_lr(epoch)[0] for epoch in range(310)]
    assert found[20:] == pytest.approx(expected[20:], rel=1e-4)
    # During the warm-up mmengine multiplies the rate by the cosine, whose factor falls to 0.99.
    assert found[:20] == pytest.approx(expected[:20], rel=0.011)


def test_the_training_pipeline():
    cfg = load(PUBLISHED[0])
    init_default_scope('mmpretrain')
    transforms = [TRANSFORMS.build(transform) for transform in cfg.train_dataloader.dataset.pipeline]
    load_, crops, flip, augments, erase, _ = transforms
    assert type(load_).__name__ == 'LoadImageFromFile'
    assert [[t.interpolation for t in choice] for choice in crops] == [['bilinear'], ['bicubic']]
    for (crop,) in crops:
        assert (crop.scale, crop.crop_ratio_range, crop.backend) == ((224, 224), (0.08, 1.0), 'pillow')
        assert crop.aspect_ratio_range == (3 / 4, 4 / 3)
    assert flip.prob == 0.5
    for (augment,) in augments:
        assert (augment.num_policies, augment.magnitude_level, augment.magnitude_std) == (2, 9, 0.5)
        assert len(augment.transforms) == 15
        # Levels range from the mildest to the hardest, which timm calls increasing.
        ranges = {policy['type']: policy.get('magnitude_range') for policy in augment.policies}
        assert (ranges['Posterize'], ranges['Solarize'], ranges['Sharpness']) == ((4, 0), (256, 0), (0, 0.9))
    assert (erase.erase_prob, erase.mode, erase.min_area_ratio, erase.max_area_ratio) == (0.25, 'rand', 0.02, 1 / 3)
    assert erase.fill_std is not None  # a value for each pixel
    image = {'img': np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8), 'gt_label': 3}
    packed = Compose(transforms[1:])(image)
    assert packed['inputs'].shape == (3, 224, 224)
    assert packed['data_samples'].gt_label.item() == 3
