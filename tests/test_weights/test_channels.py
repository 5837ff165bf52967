"""Weights for RGB images in networks for images with other channels."""

import pytest
import torch
from helpers import SMALL_ARCH
from helpers.weights import assert_loaded, assert_unchanged, build, published_classifier, state_of
from torch import nn

from mmsparx.models import SparXClassifier, load_pretrained
from mmsparx.weights.loading import adapt_input_channels

STEM = 'patch_embed.0.weight'  # published
FITTED = 'adapt_channels=True in init_cfg=dict(type='


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('channels', [1, 2, 3, 4, 5, 6, 7, 12, 13])
def test_as_timm_does_it(channels, dtype):
    timm_models = pytest.importorskip('timm.models', reason='it is what is compared with')
    weight = torch.randn(4, 3, 3, 3).to(dtype)
    ours = adapt_input_channels(weight, channels)
    assert ours.dtype == dtype
    theirs = timm_models.adapt_input_conv(channels, weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-2 if dtype.itemsize == 2 else 1e-5, atol=1e-6)


@pytest.mark.parametrize('channels', [2, 4, 6, 10])
def test_a_constant_image_has_the_same_response(channels):
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    filled = torch.einsum('oihw->o', adapt_input_channels(weight, channels))
    # Channels are repeated in turn; those repeated more often weigh more, if 3 does not divide their number.
    times = torch.tensor([len(range(i, channels, 3)) for i in range(3)]) * 3 / channels
    torch.testing.assert_close(filled, torch.einsum('oihw,i->o', weight, times.double()))


class TestLoading:
    @pytest.mark.parametrize('channels', [1, 4])
    def test_a_backbone(self, channels, save):
        published = published_classifier()
        model = build(in_channels=channels)
        report = load_pretrained(model, save(published), adapt_channels=True)
        assert torch.equal(model.stem[0].weight, adapt_input_channels(published[STEM], channels))
        assert_loaded(model, {name: x for name, x in published.items() if name != STEM})
        assert f'1 fitted to other input channels: stem.0.weight (model {channels}, file 3)' in str(report)

    def test_by_init_cfg(self, save):
        cfg = dict(type='Pretrained', checkpoint=save(published_classifier()), adapt_channels=True)
        model = build(in_channels=4, init_cfg=cfg)
        model.init_weights()
        assert torch.equal(model.stem[0].weight, adapt_input_channels(published_classifier()[STEM], 4))

    def test_a_whole_model(self, save):
        model = SparXClassifier(build(in_channels=4, out_indices=(3,), output_norm=False), 5)
        load_pretrained(model, save(published_classifier()), adapt_channels=True)
        assert torch.equal(model.backbone.stem[0].weight, adapt_input_channels(published_classifier()[STEM], 4))

    def test_rgb_is_left_alone(self, save):
        published, model = published_classifier(), build()
        report = load_pretrained(model, save(published), adapt_channels=True)
        assert_loaded(model, published)
        assert 'fitted' not in str(report)

    def test_it_must_be_requested(self, save):
        model = build(in_channels=4)
        before = state_of(model)
        with pytest.raises(RuntimeError) as error:
            load_pretrained(model, save(published_classifier()))
        assert 'Its stem takes images of 3 channels, and that of the model has in_channels=4.' in str(error.value)
        assert FITTED in str(error.value)
        assert_unchanged(model, before)

    def test_from_other_channels_there_is_no_way(self, save):
        published = published_classifier()
        published[STEM] = torch.zeros(4, 6, 3, 3)
        for options in ({}, {'adapt_channels': True}):
            with pytest.raises(RuntimeError) as error:
                load_pretrained(build(in_channels=4), save(published), **options)
            assert 'Its stem takes images of 6 channels, and that of the model has in_channels=4.' in str(error.value)
            assert FITTED not in str(error.value)

    def test_another_arch_is_not_fitted(self, save):
        model = build(SMALL_ARCH | {'stem_depth': 2}, in_channels=4)
        published = published_classifier()
        published[STEM] = torch.zeros(8, 3, 3, 3)
        with pytest.raises(RuntimeError, match=r'of another network; shape of stem\.0\.weight'):
            load_pretrained(model, save(published), adapt_channels=True)


@pytest.mark.parametrize(
    ('library', 'config'),
    [
        ('mmdet', 'detection/_base_/models/mask_rcnn_sparx_mini.py'),
        ('mmseg', 'segmentation/_base_/models/upernet_sparx_mini.py'),
    ],
)
def test_a_detector_and_a_segmenter_by_config(library, config, save):
    """The documented three settings for images of other channels."""
    pytest.importorskip(library, reason='a model of it is what is built')
    from helpers.tools import ROOT
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(ROOT / 'configs' / config)
    init_default_scope(library)
    rgb = MODELS.build({**cfg.model.backbone, 'init_cfg': None, 'output_norm': False})
    nn.init.normal_(rgb.stem[0].weight)
    cfg.merge_from_dict(
        {
            'model.backbone.in_channels': 4,
            'model.backbone.init_cfg': dict(type='Pretrained', checkpoint=save(rgb.state_dict()), adapt_channels=True),
            'model.data_preprocessor.mean': [127.5],
            'model.data_preprocessor.std': [57.5],
            'model.data_preprocessor.bgr_to_rgb': False,
        }
    )
    model = MODELS.build(cfg.model)
    model.init_weights()
    assert torch.equal(model.backbone.stem[0].weight, adapt_input_channels(rgb.stem[0].weight, 4))
    images = model.data_preprocessor({'inputs': [torch.randint(256, (4, 64, 64), dtype=torch.uint8)]})['inputs']
    assert images.shape == (1, 4, 64, 64)
    assert len(model.eval().extract_feat(images)) >= 4
