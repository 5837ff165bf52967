"""Checks of the command line that need no runner."""

import argparse

import pytest
from mmengine.config import Config

from mmsparx.engine.command_line import add_common_arguments, check_data, load_config


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
    with pytest.raises(FileNotFoundError, match=r"no config file 'nothing\.py'"):
        load_config(parse('nothing.py'))


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
