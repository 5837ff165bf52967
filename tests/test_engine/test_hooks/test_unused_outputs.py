"""Unused outputs of a backbone: the hook's message agrees with a backward pass."""

import logging
import re
from types import SimpleNamespace

import pytest
import torch
from helpers import SMALL_ARCH
from helpers.detectors import CHANNELS, build, detection_batch, train_step
from mmengine.model import MMDistributedDataParallel, MMFullyShardedDataParallel
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmsparx.engine.hooks import UnusedOutputsHook, unused_outputs
from mmsparx.models import SparXMamba

SINGLE_STAGE = {
    'RetinaNet': 'retinanet/retinanet_r50_fpn_1x_coco.py',
    'FCOS': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'ATSS': 'atss/atss_r50_fpn_1x_coco.py',
    'GFL': 'gfl/gfl_r50_fpn_1x_coco.py',
    'CondInst': 'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
    'TOOD': 'tood/tood_r50_fpn_1x_coco.py',
    'Libra RetinaNet': 'libra_rcnn/libra-retinanet_r50_fpn_1x_coco.py',  # its neck is a list
}


def without_gradient(model):
    """The parts of the backbone whose parameters get no gradient in a training step."""
    _, names = train_step(model, detection_batch(model))
    return {'.'.join(name.split('.')[1:3]) for name in names}


@pytest.fixture
def warned(monkeypatch):
    """The hook's message on a model in one process."""
    lines = []

    def print_log(message, logger, level):
        assert (logger, level) == ('current', logging.WARNING)
        lines.append(message)

    monkeypatch.setattr(unused_outputs, 'print_log', print_log)

    def warned(model):
        lines.clear()
        UnusedOutputsHook().before_train(SimpleNamespace(model=model))
        return list(lines)

    return warned


@pytest.mark.parametrize('name', SINGLE_STAGE)
def test_pyramids_from_the_second_level_on(name, warned):
    model = build('mmdet', SINGLE_STAGE[name])
    (said,) = warned(model)
    assert without_gradient(model) == {'out_norms.0'}
    assert 'its out_norms.0 would get no gradient' in said
    advice = (
        f'Set out_indices=(1, 2, 3) of model.backbone, and in_channels={CHANNELS[1:]} and start_level=0 of the neck'
    )
    assert said.endswith(advice)
    model = build('mmdet', SINGLE_STAGE[name], (1, 2, 3), dict(start_level=0))
    assert warned(model) == []
    assert without_gradient(model) == set()


def test_a_pyramid_that_ends_early(warned):
    model = build('mmdet', SINGLE_STAGE['RetinaNet'], neck=dict(start_level=0, end_level=1, num_outs=2))
    (said,) = warned(model)
    assert 'its out_norms.2, out_norms.3, stages.2, stages.3 would get no gradient' in said
    assert 'out_indices=(0, 1) of model.backbone' in said


def test_all_are_read(warned):
    assert warned(build('mmdet', 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')) == []


def test_norms_that_are_not_trained(warned):
    model = build('mmdet', SINGLE_STAGE['RetinaNet'])
    model.backbone.out_norms['0'].requires_grad_(False)
    assert warned(model) == []


class TestSeveralProcesses:
    """There is no process group; tests check the arguments and the module of DistributedDataParallel."""

    @pytest.fixture
    def wrapped(self):
        def wrapped(model, cls=MMDistributedDataParallel, **attributes):
            wrapper = cls.__new__(cls)
            nn.Module.__init__(wrapper)
            wrapper.module = model
            wrapper.__dict__.update(attributes)
            return wrapper

        return wrapped

    def test_an_error(self, wrapped, warned):
        model = wrapped(build('mmdet', SINGLE_STAGE['RetinaNet']), find_unused_parameters=False)
        with pytest.raises(ValueError, match=re.escape('Set out_indices=(1, 2, 3) of model.backbone')) as error:
            warned(model)
        assert str(error.value).endswith('or set find_unused_parameters=True, which costs time')

    def test_cases_without_an_error(self, wrapped, warned):
        model = build('mmdet', SINGLE_STAGE['RetinaNet'])
        assert warned(wrapped(model, find_unused_parameters=True)) == []
        assert warned(wrapped(model, MMFullyShardedDataParallel)) == []


class TestSegmenters:
    def segmenter(self, decode, auxiliary=None):
        pytest.importorskip('mmseg', reason='the heads are of mmseg')
        head = dict(type='FCNHead', channels=8, num_convs=1, num_classes=3, norm_cfg=dict(type='BN'))
        heads = [dict(head, in_index=i, in_channels=CHANNELS[i]) for i in auxiliary or ()]
        if isinstance(decode, int):
            decode = dict(head, in_index=decode, in_channels=CHANNELS[decode])
        init_default_scope('mmseg')
        return MODELS.build(
            dict(
                type='EncoderDecoder',
                backbone=dict(type='mmsparx.SparXMamba', arch=SMALL_ARCH),
                decode_head=decode,
                auxiliary_head=heads or None,
                train_cfg=dict(),
                test_cfg=dict(mode='whole'),
            )
        )

    @pytest.mark.parametrize(
        ('decode', 'auxiliary', 'unused'),
        [
            (3, None, ['out_norms.0', 'out_norms.1', 'out_norms.2']),
            (-1, [2], ['out_norms.0', 'out_norms.1']),
            (2, [0, 1], ['out_norms.3', 'stages.3']),
            (3, [0, 1, 2], []),
        ],
    )
    def test_heads_by_their_inputs(self, decode, auxiliary, unused, warned):
        model = self.segmenter(decode, auxiliary)
        said = warned(model)
        outs = model.extract_feat(torch.zeros(2, 3, 64, 64))
        heads = [model.decode_head, *(model.auxiliary_head if auxiliary else ())]
        sum(head(outs).sum() for head in heads).backward()
        names = {name for name, p in model.backbone.named_parameters() if p.grad is None}
        assert {'.'.join(name.split('.')[:2]) for name in names} == set(unused)
        assert len(said) == bool(unused)
        assert all(f'its {", ".join(unused)} would get' in line for line in said)

    def test_a_head_of_all_maps(self, warned):
        head = dict(type='FPNHead', in_index=[0, 1, 2, 3], feature_strides=[4, 8, 16, 32], in_channels=CHANNELS)
        assert warned(self.segmenter(dict(head, channels=8, num_classes=3))) == []


class TestClassifiers:
    def classifier(self, **options):
        pytest.importorskip('mmpretrain', reason='the head is of mmpretrain')
        init_default_scope('mmpretrain')
        return MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(type='mmsparx.SparXMamba', arch=SMALL_ARCH, **options),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=3, in_channels=CHANNELS[-1]),
            )
        )

    def test_the_last_output_alone(self, warned):
        (said,) = warned(self.classifier())
        assert 'the head reads the outputs of stages (3,) alone' in said
        assert 'its out_norms.0, out_norms.1, out_norms.2 would get' in said
        assert said.endswith('Set out_indices=(3,) of model.backbone')
        assert warned(self.classifier(out_indices=(3,))) == []
        assert warned(self.classifier(output_norm=False)) == []


def test_other_models(warned):
    assert warned(nn.Linear(1, 1)) == []
    assert warned(nn.ModuleDict({'backbone': SparXMamba(SMALL_ARCH)})) == []
