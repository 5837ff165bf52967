"""Weights into models that hold a backbone: a classifier, a detector; fine-tuning on other classes."""

import subprocess
import sys

import pytest
import torch
from helpers import randomise
from helpers.weights import (
    assert_loaded,
    assert_same_bits,
    assert_unchanged,
    build,
    build_classifier,
    published_classifier,
    state_of,
)
from torch import nn

import mmsparx
from mmsparx.models import load_pretrained
from mmsparx.weights import flatten_hook
from mmsparx.weights.names import SPARX, convert_names


def published_names(state):
    """A state dict under the published names."""
    return {new: state[name] for name, new in convert_names(state, 'published').items()}


class TestClassifier:
    def test_the_published_file(self, save):
        published = published_classifier()
        model = build_classifier()
        report = load_pretrained(model, save(published))
        assert_same_bits(published_names(model.state_dict()), published)
        assert report.ok
        assert report.share == 1
        assert report.fresh == report.left_out == []
        assert list(report.parts()) == ['backbone.stem', *(f'backbone.stages.{i}' for i in range(4)), 'head']

    def test_own_names(self, save):
        trained = randomise(build_classifier())
        model = build_classifier()
        assert load_pretrained(model, save({'state_dict': trained.state_dict(), 'meta': {}})).share == 1
        assert_unchanged(model, trained.state_dict())

    def test_within_another_model(self, save):
        trained = {f'model.{name}': x for name, x in randomise(build_classifier()).state_dict().items()}
        model = build_classifier()
        assert load_pretrained(model, save(trained), prefix='model').share == 1
        assert load_pretrained(model, save(trained)).share == 1  # Lightning wraps it like this
        more = trained | {'criterion.weight': torch.zeros(1)}
        with pytest.raises(RuntimeError, match=r"try prefix='model\.'"):
            load_pretrained(model, save(more))
        assert load_pretrained(model, save(more), prefix='model').share == 1

    def test_no_name_is_written_over(self, save):
        published = published_classifier()
        ours = {new: published[name] + 1 for name, new in convert_names(published, 'ours').items()}
        twice = {name.removeprefix('backbone.'): x for name, x in ours.items()}
        for more in (ours, twice):
            with pytest.raises(RuntimeError, match='UNEXPECTED in the file'):
                load_pretrained(build_classifier(), save(published | more))

    def test_a_flat_file_writes_over_nothing(self):
        state = {'backbone.stem.0.weight': 'ours', 'stem.0.weight': 'flat', 'stem.1.bias': 'flat'}
        flatten_hook(SPARX)(state)
        assert state == {'backbone.stem.0.weight': 'ours', 'stem.0.weight': 'flat', 'backbone.stem.1.bias': 'flat'}

    @pytest.mark.parametrize('may_differ', ['head.fc.*', ['head.fc.weight', '*.bias'], '*'])
    def test_other_classes(self, may_differ, save):
        published = published_classifier()
        model = build_classifier(num_classes=7)
        before = state_of(model)
        report = load_pretrained(model, save(published), may_differ=may_differ)
        assert report.fresh == ['head.fc.weight', 'head.fc.bias']
        assert_unchanged(model.head.fc, {name: before[f'head.fc.{name}'] for name in ('weight', 'bias')})
        assert_loaded(model.backbone, published)
        assert torch.equal(model.head.norm.weight, published['classifier.0.weight'])

    def test_parts_that_may_differ_are_loaded_if_they_match(self, save):
        published = published_classifier()
        model = build_classifier()
        assert load_pretrained(model, save(published), may_differ='head.fc.*').share == 1
        assert torch.equal(model.head.fc.weight, published['classifier.3.weight'])

    def test_a_pattern_that_fits_nothing(self, save):
        path = save(published_classifier())
        with pytest.raises(ValueError, match=r"'head\.cf\.\*' fits none of the names, as in: backbone\.stem"):
            load_pretrained(build_classifier(), path, may_differ=['head.fc.*', 'head.cf.*'])

    def test_names_of_the_file_may_differ_too(self, save):
        path = save(published_classifier() | {'extra': torch.zeros(1)})
        assert load_pretrained(build_classifier(), path, may_differ='ext*').left_out == ['extra']


def test_a_model_without_a_sparx(save):
    with pytest.raises(ValueError, match='expected a SparX backbone, or a model that holds one, got Linear'):
        load_pretrained(nn.Linear(2, 2), save(published_classifier()))


def test_two_backbones_of_a_model(save):
    """In distillation there are two: the names of each are converted in its place."""
    models = [randomise(nn.ModuleDict({'student': build(), 'teacher': build()}), seed) for seed in (0, 1)]
    state = models[0].state_dict()
    path = save({new: state[name] for name, new in convert_names(state, 'published').items()})
    assert load_pretrained(models[1], path).share == 1
    assert_unchanged(models[1], state)
    with pytest.raises(RuntimeError, match='716 MISSING in the file: student'):
        load_pretrained(models[1], save(published_classifier()))


@pytest.fixture(scope='module')
def build_detector():
    pytest.importorskip('mmdet', reason='a detector is one of mmdet')
    from helpers.tools import ROOT
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    def build_detector(num_classes=80):
        cfg = Config.fromfile(ROOT / 'configs/detection/_base_/models/mask_rcnn_sparx_mini.py')
        for head in ('bbox_head', 'mask_head'):
            cfg.model.roi_head[head].num_classes = num_classes
        init_default_scope('mmdet')
        cfg.model.backbone.init_cfg = None
        return MODELS.build(cfg.model)

    return build_detector


@pytest.fixture(scope='module')
def trained(build_detector):
    return randomise(build_detector()).state_dict()


class TestMaskRCNN:
    """A mini Mask R-CNN and its file, under the published names as mmengine's Runner writes it."""

    def test_its_own_file(self, build_detector, trained, save):
        detector = build_detector()
        path = save({'state_dict': published_names(trained), 'meta': {'epoch': 12}})
        report = load_pretrained(detector, path)
        assert report.share == 1
        assert set(report.parts()) >= {'backbone.stages.3', 'backbone.out_norms', 'neck', 'rpn_head', 'roi_head'}
        assert_unchanged(detector, trained)

    def test_its_backbone_alone(self, build_detector, trained, save):
        backbone = build_detector().backbone
        assert load_pretrained(backbone, save({'state_dict': published_names(trained)})).share == 1
        assert_unchanged(backbone, {name.removeprefix('backbone.'): x for name, x in trained.items()})

    def test_other_classes(self, build_detector, trained, save):
        detector, path = build_detector(num_classes=3), save({'state_dict': published_names(trained)})
        with pytest.raises(RuntimeError) as error:
            load_pretrained(detector, path)
        assert 'Its head is of other classes: 80 in the file, 3 in the model.' in str(error.value)
        patterns = [f'roi_head.{x}.*' for x in ('bbox_head.fc_cls', 'bbox_head.fc_reg', 'mask_head.conv_logits')]
        assert f'may_differ={patterns}.' in str(error.value)
        report = load_pretrained(detector, path, may_differ=patterns)
        assert len(report.fresh) == 6
        assert torch.equal(detector.rpn_head.rpn_conv.weight, trained['rpn_head.rpn_conv.weight'])

    def test_the_imagenet_file_is_for_its_backbone(self, build_detector, trained, save):
        inside = {k.removeprefix('backbone.'): x for k, x in trained.items() if k.startswith('backbone.')}
        path = save(published_names({k: x for k, x in inside.items() if not k.startswith('out_norms.')}))
        detector = build_detector()
        with pytest.raises(RuntimeError, match=r'Load it into the backbone alone: load_pretrained\(model\.backbone'):
            load_pretrained(detector, path)
        assert len(load_pretrained(detector.backbone, path).fresh) == 8


def test_the_package_imports_it_lazily():
    assert mmsparx.load_pretrained is load_pretrained
    assert 'load_pretrained' in dir(mmsparx)
    with pytest.raises(AttributeError, match="module 'mmsparx' has no attribute 'load_pretraind'"):
        mmsparx.load_pretraind  # noqa: B018
    code = 'import sys, mmsparx; dir(mmsparx); sys.exit("torch" in sys.modules or "mmsparx.models" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
