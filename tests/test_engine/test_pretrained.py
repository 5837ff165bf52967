"""Pretrained weights of a config's model, wherever the config names them."""

import argparse

import pytest
from mmengine.config import Config
from mmengine.model import PretrainedInit

from mmsparx.engine import training
from mmsparx.engine.pretrained import drop_pretrained

WEIGHTS = dict(type='Pretrained', checkpoint='weights.pth')
BACKBONE = dict(type='mmsparx.SparXMamba', init_cfg=WEIGHTS)
NORMAL = dict(type='TruncNormal', layer='Linear', std=0.02)


@pytest.mark.parametrize(
    ('model', 'changed'),
    [
        (dict(backbone=BACKBONE), ['model.backbone.init_cfg']),
        (  # semi-supervised detection
            dict(type='SoftTeacher', detector=dict(type='FasterRCNN', backbone=BACKBONE)),
            ['model.detector.backbone.init_cfg'],
        ),
        (  # retrieval; the encoder may be a list
            dict(type='ImageToImageRetriever', image_encoder=[BACKBONE, dict(type='GlobalAveragePooling')]),
            ['model.image_encoder.0.init_cfg'],
        ),
        (  # tracking
            dict(
                type='DeepSORT',
                detector=dict(backbone=dict(type='ResNet'), init_cfg=WEIGHTS),
                reid=dict(backbone=BACKBONE, init_cfg=WEIGHTS),
            ),
            ['model.detector.init_cfg', 'model.reid.init_cfg', 'model.reid.backbone.init_cfg'],
        ),
        (dict(init_cfg=dict(type='mmengine.Pretrained', checkpoint='weights.pth')), ['model.init_cfg']),
        (dict(init_cfg=dict(type=PretrainedInit, checkpoint='weights.pth')), ['model.init_cfg']),
        (dict(backbone=dict(init_cfg=dict(type='Pretrained_Part', checkpoint='x'))), ['model.backbone.init_cfg']),
        (dict(pretrained='open-mmlab://resnet50_v1c', backbone=dict(type='ResNetV1c')), ['model.pretrained']),
        (dict(backbone=dict(type='TIMMBackbone', pretrained=True)), ['model.backbone.pretrained']),
        (dict(backbone=dict(init_cfg=NORMAL), head=dict(pretrained=False)), []),
        (dict(type='Mine'), []),
    ],
)
def test_they_are_taken_out(model, changed):
    cfg = Config(dict(model=model))
    assert drop_pretrained(cfg.model) == changed
    assert 'weights.pth' not in cfg.pretty_text
    for key in changed:
        node, _, name = key.rpartition('.')
        where = cfg
        for part in node.split('.'):
            where = where[int(part) if part.isdigit() else part]
        assert not where[name]
    assert drop_pretrained(cfg.model) == []


def test_other_initial_values_stay():
    cfg = Config(dict(model=dict(head=dict(init_cfg=NORMAL), backbone=dict(init_cfg=[NORMAL, WEIGHTS]))))
    assert drop_pretrained(cfg.model) == ['model.backbone.init_cfg']
    assert cfg.model.to_dict() == dict(head=dict(init_cfg=NORMAL), backbone=dict(init_cfg=[NORMAL]))


@pytest.mark.parametrize(
    ('model', 'said'),
    [
        (dict(encoder=BACKBONE), 'left out model.encoder.init_cfg'),
        (dict(encoder=dict(type='ResNet')), "the config's model names no pretrained weights"),
    ],
)
def test_the_option_says_what_it_does(model, said, monkeypatch):
    logged = []
    monkeypatch.setattr(training, 'print_log', lambda message, **_: logged.append(message))
    cfg = Config(dict(model=model, no_pretrained_weights='none are published'))
    options = dict(amp=False, auto_scale_lr=False, may_differ=None, no_pretrained=True, resume=None)
    training.apply_training_options(cfg, argparse.Namespace(**options))
    training.log_initial_weights(cfg)
    assert logged == [f'--no-pretrained: {said}']
