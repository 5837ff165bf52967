"""The two protocols of the multi-scale test: the model's inputs, and unsupported models."""

import math

import cv2
import numpy as np
import pytest

pytest.importorskip('mmseg', reason='the protocols are pipelines of mmseg')
from helpers.configs import CONFIGS
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from mmsparx.engine.tta import apply_tta

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@pytest.fixture(scope='module')
def given():
    return Config.fromfile(CONFIGS / 'segmentation/_base_/datasets/ade20k.py')


@pytest.fixture
def cfg(given):
    return Config(dict(model=dict(type='EncoderDecoder'), tta_model=dict(type='SegTTAModel'), **given.to_dict()))


@pytest.fixture
def views(cfg, tmp_path):
    """A protocol's views of an image of 30 x 20 pixels: images, and the shapes of their annotations."""

    def look(protocol):
        rng = np.random.default_rng(0)
        cv2.imwrite(str(tmp_path / '1.jpg'), rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
        cv2.imwrite(str(tmp_path / '1.png'), np.ones((20, 30), np.uint8))
        paths = {'img_path': str(tmp_path / '1.jpg'), 'seg_map_path': str(tmp_path / '1.png')}
        apply_tta(cfg, protocol)
        init_default_scope('mmseg')
        pipeline = Compose(cfg.test_dataloader.dataset.pipeline)
        shown = pipeline({**paths, 'seg_fields': [], 'label_map': None, 'reduce_zero_label': True})
        assert {tuple(sample.gt_sem_seg.shape) for sample in shown['data_samples']} == {(20, 30)}
        assert [sample.flip for sample in shown['data_samples']] == [False, True] * len(RATIOS)
        return shown['inputs']

    return look


def test_the_model_is_wrapped(cfg):
    apply_tta(cfg, 'published')
    assert cfg.model == dict(type='SegTTAModel', module=dict(type='EncoderDecoder'))


@pytest.mark.parametrize(
    ('protocol', 'size'),
    [
        ('published', lambda ratio: tuple(math.ceil(side * ratio / 32) * 32 for side in (512, 768))),
        ('original', lambda ratio: tuple(int(side * ratio + 0.5) for side in (20, 30))),
    ],
)
def test_sizes_and_flips(views, protocol, size):
    images = views(protocol)
    assert [tuple(x.shape[1:]) for x in images] == [size(ratio) for ratio in RATIOS for _ in range(2)]
    assert all(x.equal(flipped.flip(2)) for x, flipped in zip(images[::2], images[1::2], strict=True))


def test_an_unknown_protocol_lists_the_known_ones(cfg):
    with pytest.raises(ValueError, match=r'--tta often: .* known protocols: published, original'):
        apply_tta(cfg, 'often')


@pytest.mark.parametrize('missing', ['tta_pipelines', 'tta_model'])
def test_a_config_without_a_multi_scale_test(cfg, missing):
    cfg.pop(missing)
    with pytest.raises(ValueError, match=r'expected tta_model=dict\(\.\.\.\) and tta_pipelines=dict\(published='):
        apply_tta(cfg, 'published')


@pytest.mark.parametrize('model', [dict(roi_head=dict(mask_head=dict())), dict(mask_head=dict())])
def test_masks_of_instances_are_not_merged(model):
    with pytest.raises(ValueError, match='mmdet merges boxes alone'):
        apply_tta(Config(dict(model=model)), 'published')
