"""Segmenters through the tools: training, resuming, testing, multi-scale tests, and bad input."""

import json
import pickle
import shlex
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmdet', reason='the fixtures of the tools need mmdet')
pytest.importorskip('mmseg', reason='the segmentation tools need mmseg')
from helpers import randomise
from helpers.segmentation import KINDS, config, write_ade
from helpers.tools import overrides, parse, read_drawn, scalars
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmseg.datasets import ADE20KDataset
from mmseg.models import SegTTAModel

from mmsparx.engine.command_line import load_config
from mmsparx.models import SparXClassifier, SparXMamba
from mmsparx.weights import read_checkpoint

METRICS = {'aAcc', 'mIoU', 'mAcc'}


@pytest.fixture
def ade(tmp_path):
    """Two images to train on, which the overfit configs evaluate on, too."""
    write_ade(tmp_path / 'ade', 'training', 2)
    return tmp_path / 'ade'


@pytest.fixture
def train(tool, ade, tmp_path):
    """Train a few iterations from scratch, with `overrides`' options; returns the config of the run."""

    def run(kind='fpn', **options) -> Path:
        work = tmp_path / 'work'
        options = ['--cfg-options', *overrides(ade, task='segmentation', **options)]
        tool('train', config(kind), '--work-dir', work, '--no-pretrained', *options)
        return work / Path(config(kind)).name

    return run


def measured(work: Path) -> dict:
    """The metrics of the newest test in a work directory."""
    newest = max(work.glob('*/*.json'), key=lambda path: path.stat().st_mtime_ns)
    return {key: value for key, value in json.loads(newest.read_text()).items() if key in METRICS}


@pytest.mark.parametrize(('kind', 'protocol'), [('upernet', 'published'), ('fpn', 'original')])
def test_train_resume_and_test(kind, protocol, train, tool, tmp_path):
    kept = train(kind, iters=4)
    checkpoint = kept.parent / 'iter_4.pth'
    validated = {key: value for key, value in scalars(kept.parent)[-1].items() if key in METRICS}
    assert validated.keys() == METRICS

    tool('train', kept, '--work-dir', tmp_path / 'resumed', '--resume', kept.parent / 'iter_2.pth')
    states = [read_checkpoint(path) for path in (checkpoint, tmp_path / 'resumed/iter_4.pth')]
    whole, resumed = (state['state_dict'] for state in states)
    assert all(torch.equal(x, resumed[name]) for name, x in whole.items())

    tool('test', kept, checkpoint, '--work-dir', tmp_path / 'tested')
    assert measured(tmp_path / 'tested') == validated

    cfg = Config.fromfile(kept)
    for resize, side in zip(cfg.tta_pipelines.published[1].transforms[0], (32, 48, 64, 80, 96, 112), strict=True):
        resize.scale = (4 * side, side)
    cfg.dump(tmp_path / 'tta.py')
    tool('test', tmp_path / 'tta.py', checkpoint, '--work-dir', tmp_path / 'tta', '--tta', protocol)
    assert measured(tmp_path / 'tta').keys() == METRICS

    options = ['--cfg-options', 'model.decode_head.num_classes=3']
    with pytest.raises(RuntimeError, match=r'decode_head\.conv_seg'):
        tool('test', kept, checkpoint, '--work-dir', tmp_path / 'other', *options)


@pytest.fixture
def checkpoint(tmp_path):
    """A file of untrained weights for the small Semantic FPN."""
    cfg = Config.fromfile(config('fpn'))
    init_default_scope('mmseg')
    torch.save(randomise(MODELS.build(cfg.model)).state_dict(), tmp_path / 'weights.pth')
    return tmp_path / 'weights.pth'


@pytest.mark.parametrize('tta', [[], ['--tta', 'original']])
def test_predictions_are_drawn_and_written(tta, tool, ade, checkpoint, tmp_path):
    """Without data to train on, and without the scores of each class at each pixel."""
    images = ade / 'images/training'
    for path in list(images.iterdir()):
        cv2.imwrite(str(path.with_suffix('.png')), cv2.imread(str(path)))  # so that drawings can be compared
        path.unlink()
    elsewhere = {
        'train_dataloader.dataset.data_root': tmp_path / 'nowhere',
        'test_dataloader.dataset.img_suffix': '.png',
    }
    options = ['--cfg-options', *overrides(ade, task='segmentation', **elsewhere)]
    arguments = ['--work-dir', tmp_path / 'tested', '--show-dir', tmp_path / 'drawn', '--out', tmp_path / 'out.pkl']
    tool('test', config('fpn'), checkpoint, *arguments, *tta, *options)

    predictions = {Path(each['img_path']).name: each for each in pickle.loads((tmp_path / 'out.pkl').read_bytes())}
    drawn = read_drawn(tmp_path / 'drawn', images)
    assert len(drawn) == 2
    palette = np.array(ADE20KDataset.METAINFO['palette'])
    right = []
    for name, (image, both) in drawn.items():
        assert not predictions[name].keys() & {'seg_logits', 'gt_sem_seg'}
        predicted = predictions[name]['pred_sem_seg']['data'][0].numpy()
        annotated = cv2.imread(str(ade / f'annotations/training/{name}'), cv2.IMREAD_UNCHANGED) - 1
        # The ground truth is on the left and the predictions are on the right, with the names of some classes, below a
        # line that says so.
        header, both = both[:-64], both[-64:]
        assert header.shape[0] > 0
        assert both.shape == (64, 128, 3)
        for part, label_map in ((both[:, :64], annotated), (both[:, 64:], predicted)):
            expected = 0.2 * image + 0.8 * palette[label_map][..., ::-1]
            assert np.median(np.abs(part - expected)) <= 1
            assert not np.array_equal(part, image)
        right.append(predicted == annotated)
    assert measured(tmp_path / 'tested')['aAcc'] == pytest.approx(100 * np.mean(right), abs=0.01)


def test_the_views_of_an_image_are_freed(tool, ade, checkpoint, tmp_path, monkeypatch):
    """They are freed before those of the next image are merged: they take most memory of a multi-scale test."""
    merge, views, images = SegTTAModel.merge_preds, [], []

    def watched(model, data_samples_list):
        images.append([view for view in views if view() is not None])
        views.extend(weakref.ref(sample.seg_logits.data) for samples in data_samples_list for sample in samples)
        assert all(view() is not None for view in views[-12:])
        return merge(model, data_samples_list)

    monkeypatch.setattr(SegTTAModel, 'merge_preds', watched)
    options = ['--out', tmp_path / 'out.pkl', '--cfg-options', *overrides(ade, task='segmentation')]
    tool('test', config('fpn'), checkpoint, '--work-dir', tmp_path / 'tested', '--tta', 'original', *options)
    assert len(views) == 24
    assert images == [[], []]


@pytest.mark.parametrize('kind', KINDS)
def test_every_backbone_parameter_gets_a_gradient(kind, ade):
    cfg = load_config(parse('train', config(kind), '--cfg-options', *overrides(ade, task='segmentation')))
    init_default_scope('mmseg')
    model = MODELS.build(cfg.model).train()
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    batch = model.data_preprocessor(batch, training=True)
    loss, _ = model.parse_losses(model(**batch, mode='loss'))
    loss.backward()
    for name, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_weights_of_an_auxiliary_head_that_is_dropped(train, tmp_path):
    cfg = Config.fromfile(config('upernet'))
    init_default_scope('mmseg')
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, tmp_path / 'x.pth')
    options = {'model.auxiliary_head': None, 'load_from': tmp_path / 'x.pth'}
    with pytest.raises(
        RuntimeError, match=r'The file has auxiliary_head \(\d+ tensors\), which the model lacks'
    ) as error:
        train('upernet', **options)
    assert "--may-differ 'auxiliary_head.*'\n" in str(error.value)
    (option,) = shlex.split(str(error.value).partition('--cfg-options ')[2].partition('\n')[0])
    key, _, value = option.partition('=')
    assert (train('upernet', **options, **{key: value}).parent / 'iter_2.pth').is_file()


def test_weights_of_a_classifier(train, tmp_path):
    cfg = Config.fromfile(config('fpn'))
    backbone = SparXMamba(cfg.model.backbone.arch, out_indices=(3,), output_norm=False)
    torch.save({'state_dict': SparXClassifier(backbone).state_dict()}, tmp_path / 'x.pth')
    said = r"model\.backbone\.init_cfg=dict\(type='Pretrained', checkpoint='.*x\.pth'\)"
    with pytest.raises(RuntimeError, match=said):
        train(load_from=tmp_path / 'x.pth')


def test_a_constructor_that_does_not_know_the_layers(train):
    with pytest.raises(ValueError, match=r'LearningRateDecayOptimizerConstructor .* layer_decay_rate=0\.9'):
        train(**{'optim_wrapper.constructor': 'LearningRateDecayOptimizerConstructor'})


def test_a_label_out_of_range_is_named(train, ade):
    """The loss would only name an index on a CPU, and nothing on a GPU."""
    for path in (ade / 'annotations/training').iterdir():
        cv2.imwrite(str(path), np.full((64, 64), 151, np.uint8))
    with pytest.raises(ValueError, match=r'training/\d\.png: no class has the labels \[150\]\. Expected 0 to 149'):
        train()


def test_another_number_of_classes_than_the_heads(train):
    with pytest.raises(ValueError, match='ADE20KDataset has 150 classes, but decode_head has 3'):
        train(**{'model.decode_head.num_classes': 3})


def test_a_missing_annotation_is_named(train, ade):
    for path in (ade / 'annotations/training').iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r'annotations/training: an image has no label map of its name \(2 times\)'):
        train()


def test_a_missing_folder_of_annotations_is_named(train, ade):
    (ade / 'annotations').rename(ade / 'elsewhere')
    with pytest.raises(FileNotFoundError, match=r'train_dataloader\.dataset: .*annotations/training does not exist'):
        train()
