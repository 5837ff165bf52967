"""Checks of the command line that need no runner."""

import argparse

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from mmsparx.engine import command_line
from mmsparx.engine.command_line import add_common_arguments, check_data, empty_data_explained, harden, load_config
from mmsparx.engine.hooks import StrictLoadHook


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_common_arguments(parser)
    return parser.parse_args(list(arguments))


def test_a_config_with_options(tmp_path):
    path = tmp_path / 'name_of_it.py'
    path.write_text("model = dict(depth=1, kind='a')\n")
    cfg = load_config(parse(str(path), '--cfg-options', 'model.depth=3', 'model.kinds=[a,b]'))
    assert cfg.model == {'depth': 3, 'kind': 'a', 'kinds': ['a', 'b']}
    assert cfg.work_dir == 'work_dirs/name_of_it'
    assert cfg.launcher == 'none'
    assert load_config(parse(str(path), '--work-dir', 'there')).work_dir == 'there'


def test_missing_config():
    with pytest.raises(ValueError, match=r'no config file .*nearest: .*mask_rcnn_sparx_\w_3x'):
        load_config(parse('mask_rcnn_sparx_x_3x.py'))


def data_config(**dataset):
    return Config({'train_dataloader': {'dataset': dataset}})


def test_data_that_is_there(tmp_path):
    (tmp_path / 'pictures').mkdir()
    (tmp_path / 'list.json').touch()
    dataset = {'data_root': str(tmp_path), 'ann_file': 'list.json', 'data_prefix': {'img': 'pictures', 'seg': ''}}
    check_data(data_config(**dataset), ('train_dataloader', 'val_dataloader'))


@pytest.mark.parametrize(
    ('wrap', 'key'),
    [
        (lambda dataset: dataset, 'train_dataloader.dataset'),
        (lambda dataset: {'type': 'RepeatDataset', 'dataset': dataset}, 'train_dataloader.dataset.dataset'),
        (lambda dataset: {'type': 'ConcatDataset', 'datasets': [dataset]}, 'train_dataloader.dataset.datasets.0'),
    ],
)
def test_data_that_is_not_there_is_named_with_its_setting(tmp_path, wrap, key):
    dataset = {'data_root': str(tmp_path), 'ann_file': 'list.json', 'data_prefix': {'img': 'pictures'}}
    with pytest.raises(FileNotFoundError) as error:
        check_data(data_config(**wrap(dataset)), ('train_dataloader',))
    assert str(tmp_path / 'list.json') in str(error.value)
    assert f'{key}.data_root' in str(error.value)


def test_remote_data_is_left_to_its_backend():
    check_data(data_config(data_root='s3://bucket/coco/', ann_file='list.json'), ('train_dataloader',))


@pytest.fixture
def logged(monkeypatch):
    """What the first process logs, line by line."""
    monkeypatch.delenv('RANK', raising=False)
    lines = []
    monkeypatch.setattr(command_line, 'print_log', lambda message, **_: lines.append(message))
    return lines


def pipeline_of(kind):
    load = dict(type=kind)
    return dict(
        dataset=dict(type='RepeatDataset', dataset=dict(pipeline=[load, dict(type='Other', transforms=[[load]])]))
    )


@pytest.mark.parametrize('kind', ['CheckpointHook', 'mmengine.hooks.CheckpointHook', CheckpointHook])
def test_a_run_is_hardened(kind, logged):
    cfg = Config(
        dict(
            default_hooks=dict(checkpoint=dict(type=kind, interval=5)),
            custom_hooks=[dict(type='EMAHook')],
            train_dataloader=pipeline_of('LoadImageFromFile'),
            val_dataloader=None,
            test_dataloader=pipeline_of('LoadImageFromFile'),
        )
    )
    harden(cfg)
    assert cfg.default_hooks.checkpoint == dict(type='mmsparx.SafeCheckpointHook', interval=5)
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook', 'mmsparx.StrictLoadHook']
    assert cfg.train_dataloader.to_dict() == pipeline_of('mmsparx.LoadImageFromFile')
    assert cfg.test_dataloader.to_dict() == pipeline_of('LoadImageFromFile')  # inferencers look for it
    name = 'mmengine.hooks.checkpoint_hook.CheckpointHook' if kind is CheckpointHook else kind
    place = 'train_dataloader.dataset.dataset.pipeline'
    assert logged == [
        f'changed in the config: default_hooks.checkpoint: {name} -> mmsparx.SafeCheckpointHook',
        'changed in the config: custom_hooks: mmsparx.StrictLoadHook added',
        f'changed in the config: {place}.0: LoadImageFromFile -> mmsparx.LoadImageFromFile',
        f'changed in the config: {place}.1.transforms.0.0: LoadImageFromFile -> mmsparx.LoadImageFromFile',
    ]
    logged.clear()
    harden(cfg)
    assert len(cfg.custom_hooks) == 2
    assert not logged


def test_a_config_without_hooks_is_hardened(logged, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    cfg = Config({})
    harden(cfg)
    assert not logged  # the first process does it
    assert cfg.default_hooks.checkpoint.type == 'mmsparx.SafeCheckpointHook'
    assert cfg.custom_hooks == [dict(type='mmsparx.StrictLoadHook')]


def test_what_is_of_another_kind_is_left_alone(logged):
    given = dict(
        default_hooks=dict(checkpoint=None),
        custom_hooks=[dict(type=StrictLoadHook, may_differ='head.*')],
        train_dataloader=pipeline_of('mine.LoadImageFromFile'),
    )
    cfg = Config(given)
    harden(cfg)
    assert cfg.to_dict() == Config(given).to_dict()
    assert not logged


def test_an_empty_dataset_is_explained():
    with pytest.raises(ValueError, match='a dataset holds no picture'), empty_data_explained():
        raise ValueError('class `CocoDataset` in coco.py: need at least one array to concatenate')
    with pytest.raises(ValueError, match=r'^other$'), empty_data_explained():
        raise ValueError('other')
