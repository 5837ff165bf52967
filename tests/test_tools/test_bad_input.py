"""What a user reads when data, a config or a checkpoint is not as it should be."""

import json
import pickle
import shutil

import pytest
import torch

pytest.importorskip('mmdet', reason='the detection tools need mmdet')
from tool_helpers import CONFIG, overrides, scalars


def edit_annotations(coco, change, split='train2017'):
    path = coco / f'annotations/instances_{split}.json'
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_missing_config(train):
    with pytest.raises(FileNotFoundError, match=r"no config file 'nothing\.py'"):
        train(config='nothing.py')


def test_missing_data_folder(train, coco):
    shutil.rmtree(coco)
    with pytest.raises(FileNotFoundError, match=r'train_dataloader\.dataset: .*instances_train2017.*ln -s') as error:
        train()
    assert 'train_dataloader.dataset.data_root' in str(error.value)


def test_missing_pictures_folder(train, coco):
    shutil.rmtree(coco / 'train2017')
    with pytest.raises(FileNotFoundError, match='train2017'):
        train()


def test_corrupt_picture_is_named(train, coco):
    for picture in (coco / 'train2017').iterdir():
        picture.write_bytes(picture.read_bytes()[:40])
    with pytest.raises(Exception, match=r'train2017/\d\.png'):
        train()


def test_pictures_without_annotations_are_left_out(train, coco):
    def drop_one(data):
        data['annotations'] = [a for a in data['annotations'] if a['image_id'] != 0]

    edit_annotations(coco, drop_one)
    assert _losses(train())


def test_pictures_without_annotations_train_as_background(train, coco):
    """With filter_empty_gt=False a picture without objects is a picture of background."""
    edit_annotations(coco, lambda data: data.update(annotations=[]))
    losses = _losses(train(**{'train_dataloader.dataset.filter_cfg.filter_empty_gt': False}))
    assert all(loss == loss and loss < float('inf') for loss in losses)


def test_crowds_only(train, coco):
    def into_crowds(data):
        for annotation in data['annotations']:
            annotation['iscrowd'] = 1
            x, y, w, h = annotation['bbox']
            counts = [(x * 64) + y, *([h, 64 - h] * (w - 1)), h, 64 * (64 - x - w) + 64 - y - h]
            annotation['segmentation'] = {'size': [64, 64], 'counts': counts}

    edit_annotations(coco, into_crowds)
    losses = _losses(train(**{'train_dataloader.dataset.filter_cfg.filter_empty_gt': False}))
    assert all(loss == loss and loss < float('inf') for loss in losses)


@pytest.mark.parametrize(
    ('option', 'value', 'message'),
    [
        ('model.backbone.arch', 'huge', "unknown arch 'huge'; known ones: tiny, small, base"),
        ('model.backbone.token_mixer', "{'type': 'Nope'}", r"unknown token mixer 'Nope'; known ones: .*SS2D"),
        ('model.backbone.aggregator.type', 'Nope', r"unknown aggregator 'Nope'; known ones: .*DMCA"),
        (
            'model.backbone.token_mixer',
            "{'type': 'SS2D', 'backend': 'gpu'}",
            r"unknown .*backend 'gpu'.*; known ones: auto",
        ),
    ],
)
def test_unknown_names_list_the_known_ones(train, tmp_path, option, value, message):
    *parents, last = option.split('.')
    body = f'{last}={value if value.startswith("{") else repr(value)}'
    for parent in reversed(parents):
        body = f'{parent}=dict({body})'
    config = tmp_path / 'config.py'
    config.write_text(f'_base_ = {CONFIG!r}\n{body}\n')
    with pytest.raises(Exception, match=message):
        train(config=config)


class Hostile:
    """Unpickled without care, it leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), 'w')


def test_foreign_code_in_a_checkpoint_does_not_run(train, tool, coco, tmp_path):
    path, mark = tmp_path / 'hostile.pth', tmp_path / 'mark'
    torch.save({'state_dict': {}, 'extra': Hostile(mark)}, path)
    with pytest.raises(pickle.UnpicklingError, match=r'[Ww]eights.?only'):
        tool('test', CONFIG, path, '--work-dir', tmp_path, '--cfg-options', *overrides(coco))
    with pytest.raises(pickle.UnpicklingError, match=r'[Ww]eights.?only'):
        train('--resume', path)
    assert not mark.exists()


def test_truncated_checkpoint(train, tmp_path):
    path = tmp_path / 'half.pth'
    torch.save({'state_dict': {'a': torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RuntimeError, match=r'PytorchStreamReader|failed finding central directory|archive'):
        train('--resume', path)


def _losses(work):
    return [line['loss'] for line in scalars(work) if 'loss' in line]
