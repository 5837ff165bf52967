"""The UperNet and Semantic FPN configs: they build, have the published recipes, and match the paper's costs."""

import math
import re
from functools import cache

import pytest
import torch

pytest.importorskip('mmseg', reason='the segmentation configs stand on mmseg')
import mmseg
from helpers.configs import (
    CONFIGS,
    assert_committed_parameters,
    assert_published_decay,
    build,
    library_config,
    recipe,
    weight_decays,
)
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, TRANSFORMS, init_default_scope
from mmseg.datasets import ADE20KDataset

from mmsparx.analysis import complexity
from mmsparx.models import SparXNet

SEGMENTATION = CONFIGS / 'segmentation'
LEAVES = sorted(path.name for path in SEGMENTATION.glob('*.py'))
UPERNET = [f'upernet_sparx_{arch}_160k.py' for arch in 'tsb']
FPN = [f'fpn_sparx_{arch}_80k.py' for arch in 'tsb']

# By head and arch: GFLOPs at 512x2048 and parameters in M of the paper's Table 6, and the drop path.
PAPER = {
    ('upernet', 't'): (954, 57, 0.2),
    ('upernet', 's'): (1039, 77, 0.4),
    ('upernet', 'b'): (1181, 115, 0.5),
    ('fpn', 't'): (197, 31, 0.2),
    ('fpn', 's'): (281, 51, 0.3),
    ('fpn', 'b'): (422, 87, 0.4),
}
ARCHS = {'t': 'tiny', 's': 'small', 'b': 'base'}

# The other configs: family, arch, drop path, and whether there are published ImageNet weights.
OTHERS = {
    'upernet_sparx_t_ssm_160k.py': ('SparXMamba', 'tiny', 0.2, False),
    'upernet_sparx_t_bi_ssm_160k.py': ('SparXMamba', 'tiny', 0.2, False),
    'upernet_sparx_swin_t_160k.py': ('SparXSwin', 'tiny', 0.2, False),
    'upernet_sparx_swin_b_160k.py': ('SparXSwin', 'base', 0.5, False),
    **{
        name.format(size): ('VMamba', arch, drop_path, True)
        for size, arch, drop_path in (('t', 'tiny', 0.2), ('s', 'small', 0.3), ('b', 'base', 0.6))
        for name in ('upernet_vmamba_{}_160k.py', 'fpn_vmamba_{}_80k.py')
    },
}


@cache
def load(name: str) -> Config:
    """A cached config, which tests must not change."""
    return Config.fromfile(SEGMENTATION / name)


@cache
def segmenter(name: str):
    return build(load(name))


def count(model):
    return complexity(model.eval(), torch.empty(1, 3, 512, 2048, device='meta'))


@pytest.mark.parametrize('name', LEAVES)
def test_a_leaf_builds(name):
    cfg = load(name)
    model = segmenter(name)
    assert isinstance(model.backbone, SparXNet)
    assert_committed_parameters(name, model)
    channels = list(model.backbone.arch.channels)
    assert list((model.neck if model.with_neck else model.decode_head).in_channels) == channels
    classes = len(cfg.train_dataloader.dataset.get('metainfo', ADE20KDataset.METAINFO)['classes'])
    assert model.decode_head.num_classes == classes
    if model.with_auxiliary_head:
        assert (model.auxiliary_head.in_channels, model.auxiliary_head.num_classes) == (channels[2], classes)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        Compose([TRANSFORMS.build(transform) for transform in cfg[loader].dataset.pipeline])


@pytest.mark.parametrize('name', [*UPERNET, *FPN])
def test_a_leaf_holds_the_published_recipe(name):
    cfg = load(name)
    kind, arch = re.match(r'(\w+)_sparx_(\w)_', name).groups()
    backbone = cfg.model.backbone
    assert backbone.type == 'mmsparx.SparXMamba'
    assert (backbone.arch, backbone.drop_path_rate) == (ARCHS[arch], PAPER[kind, arch][2])
    assert not backbone.aggregator.learnable_scale
    address = f'https://github.com/LMMMEng/SparX/releases/download/v1/sparx_mamba_{ARCHS[arch]}_in1k.pth'
    assert backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': address}
    assert cfg.model.data_preprocessor.size == (512, 512)
    assert cfg.model.test_cfg == {'mode': 'whole'}
    rate, decay, batch, iters = {'upernet': (6e-5, 0.01, 2, 160000), 'fpn': (2e-4, 1e-4, 4, 80000)}[kind]
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.optimizer == {
        'type': 'AdamW', 'lr': rate, 'betas': (0.9, 0.999), 'weight_decay': decay,
    }  # fmt: skip
    assert cfg.train_cfg.max_iters == iters
    assert cfg.param_scheduler[-1].end == iters
    assert cfg.train_dataloader.batch_size == batch
    assert cfg.auto_scale_lr == {'enable': False, 'base_batch_size': 8 * batch}
    assert cfg.test_evaluator.iou_metrics == ['mIoU']
    assert cfg.custom_imports.imports == ['mmsparx.models']
    norms = {backbone.norm_cfg.type, cfg.model.decode_head.norm_cfg.type}
    if kind == 'upernet':
        assert (cfg.model.decode_head.channels, cfg.model.decode_head.pool_scales) == (512, (1, 2, 3, 6))
        auxiliary = cfg.model.auxiliary_head
        assert (auxiliary.in_index, auxiliary.channels, auxiliary.loss_decode.loss_weight) == (2, 256, 0.4)
        norms.add(auxiliary.norm_cfg.type)
    else:
        assert (cfg.model.neck.out_channels, cfg.model.decode_head.channels) == (256, 128)
    assert norms == {'SyncBN'}
    assert cfg.model.decode_head.dropout_ratio == 0.1


@pytest.mark.parametrize('name', OTHERS)
def test_the_recipe_of_the_others_is_the_same(name):
    family, arch, drop_path, published = OTHERS[name]
    cfg = load(name)
    backbone = cfg.model.backbone
    assert (backbone.type, backbone.arch, backbone.drop_path_rate) == (f'mmsparx.{family}', arch, drop_path)
    if published:
        assert backbone.init_cfg.checkpoint.startswith(
            'https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/'
        )
    else:
        assert backbone.init_cfg is None
        assert cfg.no_pretrained_weights.endswith('are not published')
    ours, theirs = recipe(cfg), recipe(load(UPERNET[0] if name.startswith('upernet') else FPN[0]))
    if family == 'SparXSwin':
        assert ours['optim_wrapper'].pop('paramwise_cfg')['custom_keys'].keys() > {'norm'}
        assert theirs['optim_wrapper'].pop('paramwise_cfg')['custom_keys'].keys() == {'norm'}
    assert ours == theirs


def test_the_parameters_of_swin_that_do_not_decay():
    """They are those of Swin: the norms, including the stem's, and the tables of relative position biases."""
    decays = weight_decays(load('upernet_sparx_swin_t_160k.py'))
    spared = {name for name, decay in decays.items() if decay == 0}
    expected = ('norm', 'relative_position_bias_table', 'backbone.stem.1.')
    assert spared == {name for name in decays if name.startswith('backbone.') and any(key in name for key in expected)}
    assert all(any(key in name for name in spared) for key in expected)


@pytest.mark.parametrize('name', [UPERNET[0], FPN[0]])
def test_pipelines(name):
    cfg = load(name)
    transforms = {transform.type: transform for transform in cfg.train_dataloader.dataset.pipeline}
    assert list(transforms) == [
        'LoadImageFromFile',
        'LoadAnnotations',
        'RandomResize',
        'RandomCrop',
        'RandomFlip',
        'PhotoMetricDistortion',
        'PackSegInputs',
    ]
    assert (transforms['RandomResize'].scale, transforms['RandomResize'].ratio_range) == ((2048, 512), (0.5, 2.0))
    assert (transforms['RandomCrop'].crop_size, transforms['RandomCrop'].cat_max_ratio) == ((512, 512), 0.75)
    assert transforms['RandomFlip'].prob == 0.5
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        _, resize, to_multiple, *_ = loader.dataset.pipeline
        assert resize == {'type': 'Resize', 'scale': (2048, 512), 'keep_ratio': True}
        assert to_multiple == {'type': 'ResizeToMultiple', 'size_divisor': 32}
        assert loader.dataset.data_prefix.img_path == 'images/validation'


def learning_rates(cfg: Config, iters: int) -> list[float]:
    """The learning rate of each of the first iterations."""
    wrapper = build_optim_wrapper(torch.nn.Linear(1, 1), cfg.optim_wrapper)
    wrapper.optimizer.step()
    schedulers = [PARAM_SCHEDULERS.build({**part, 'optimizer': wrapper}) for part in cfg.param_scheduler]
    found = []
    for _ in range(iters):
        found.append(wrapper.get_lr()['lr'][0])
        for scheduler in schedulers:
            scheduler.step()
    return found


def test_the_learning_rates_of_upernet():
    """A linear warm-up from 1e-6 of the learning rate, then a linear decay to 0 at the last iteration."""
    found = learning_rates(load(UPERNET[0]), 3001)
    assert found[0] == pytest.approx(6e-5 * 1e-6)
    assert found[750] == pytest.approx(6e-5 * 750 / 1499, rel=1e-5)
    assert found[1500] == pytest.approx(6e-5)
    assert found[3000] == pytest.approx(6e-5 * (1 - 1500 / 158499))


def test_the_learning_rates_of_semantic_fpn():
    """A cosine over all iterations, multiplied over the first 1000 by a factor that rises from 0.1 to 1."""
    found = learning_rates(load(FPN[0]), 3001)
    for i in (0, 500, 999, 1000, 3000):
        cosine = 1e-8 + (1 - 1e-8) * (1 + math.cos(math.pi * i / 80000)) / 2
        assert found[i] == pytest.approx(2e-4 * cosine * min(1, 0.1 + 0.9 * i / 999), rel=1e-7)


@pytest.mark.parametrize('name', [UPERNET[0], FPN[0]])
def test_the_published_set_of_parameters_does_not_decay(name):
    assert_published_decay(load(name))


@pytest.mark.parametrize(('kind', 'arch'), PAPER)
def test_parameters_and_multiply_adds_of_the_paper(kind, arch):
    (name,) = (name for name in (*UPERNET, *FPN) if name.startswith(f'{kind}_sparx_{arch}_'))
    counted = count(segmenter(name))
    assert counted.macs / 1e9 == pytest.approx(PAPER[kind, arch][0], rel=0.01)
    assert counted.params / 1e6 == pytest.approx(PAPER[kind, arch][1], rel=0.01)
    assert counted.macs_by_op['mmsparx.cross_selective_scan_fwd'] > 0


def test_the_counter_gives_the_papers_figures_for_swin():
    """All figures follow one convention: 945 G and 60 M for mmseg's Swin-T UperNet (Table 6) without auxiliary loss."""
    swin = library_config(mmseg, 'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py')
    swin.model.backbone.init_cfg = None
    # Its drop-path rates are read from a tensor, so it is moved to the meta device after it is built.
    init_default_scope('mmseg')
    counted = count(MODELS.build(swin.model).to('meta'))
    assert counted.macs / 1e9 == pytest.approx(945, rel=0.001)
    assert round(counted.params / 1e6) == 60
