"""Checks of the command line that need no runner."""

import argparse
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

import mmsparx
from mmsparx.cli.arguments import add_run_arguments
from mmsparx.engine import command_line
from mmsparx.engine.command_line import empty_data_explained, harden, load_config
from mmsparx.engine.hooks import StrictLoadHook, UnusedOutputsHook


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    return parser.parse_args(list(arguments))


def test_a_config_with_options(tmp_path):
    path = tmp_path / 'name_of_it.py'
    path.write_text("model = dict(depth=1, kind='a')\n")
    options = ('--cfg-options', 'model.depth=3', 'model.kinds=[a,b]')
    with pytest.raises(ValueError, match=r"model has no 'kinds'; did you mean model\.kind\?"):
        load_config(parse(str(path), *options))
    cfg = load_config(parse(str(path), *options, '--allow-new-keys'))
    assert cfg.model == {'depth': 3, 'kind': 'a', 'kinds': ['a', 'b']}
    assert cfg.work_dir == 'work_dirs/name_of_it'
    assert cfg.launcher == 'none'
    assert load_config(parse(str(path), '--work-dir', 'there')).work_dir == 'there'


def test_missing_config():
    with pytest.raises(ValueError, match=r'no config file .*nearest: .*mask_rcnn_sparx_\w_3x'):
        load_config(parse('mask_rcnn_sparx_x_3x.py'))


@pytest.fixture
def logged(monkeypatch):
    """The lines that the first process logs."""
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
    added = ['mmsparx.StrictLoadHook', 'mmsparx.UnusedOutputsHook']
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook', *added]
    assert cfg.train_dataloader.to_dict() == pipeline_of('mmsparx.LoadImageFromFile')
    assert cfg.test_dataloader.to_dict() == pipeline_of('LoadImageFromFile')  # inferencers look for it
    name = 'mmengine.hooks.checkpoint_hook.CheckpointHook' if kind is CheckpointHook else kind
    place = 'train_dataloader.dataset.dataset.pipeline'
    assert logged == [
        f'changed in the config: default_hooks.checkpoint: {name} -> mmsparx.SafeCheckpointHook',
        *(f'changed in the config: custom_hooks: {name} added' for name in added),
        f'changed in the config: {place}.0: LoadImageFromFile -> mmsparx.LoadImageFromFile',
        f'changed in the config: {place}.1.transforms.0.0: LoadImageFromFile -> mmsparx.LoadImageFromFile',
    ]
    logged.clear()
    harden(cfg)
    assert len(cfg.custom_hooks) == 3
    assert not logged


def test_a_config_without_hooks_is_hardened(logged, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    cfg = Config({})
    harden(cfg)
    assert not logged  # the first process does it
    assert cfg.default_hooks.checkpoint.type == 'mmsparx.SafeCheckpointHook'
    assert cfg.custom_hooks == [dict(type='mmsparx.StrictLoadHook'), dict(type='mmsparx.UnusedOutputsHook')]


def test_other_kinds_are_left_alone(logged):
    given = dict(
        default_hooks=dict(checkpoint=None),
        custom_hooks=[dict(type=StrictLoadHook, may_differ='head.*'), dict(type=UnusedOutputsHook)],
        train_dataloader=pipeline_of('mine.LoadImageFromFile'),
    )
    cfg = Config(given)
    harden(cfg)
    assert cfg.to_dict() == Config(given).to_dict()
    assert not logged


def test_an_empty_dataset_is_explained():
    with pytest.raises(ValueError, match='a dataset holds no image'), empty_data_explained():
        raise ValueError('class `CocoDataset` in coco.py: need at least one array to concatenate')
    with pytest.raises(ValueError, match=r'^other$'), empty_data_explained():
        raise ValueError('other')


def test_the_log_says_which_scan_runs(monkeypatch):
    lines = []
    runner = SimpleNamespace(model=torch.nn.Linear(1, 1), logger=SimpleNamespace(info=lines.append))
    monkeypatch.setattr(command_line.Runner, 'from_cfg', lambda cfg: runner)
    for name in ('prepare_processes', 'harden', 'check_arguments', 'check_layer_decay'):
        monkeypatch.setattr(command_line, name, lambda cfg: None)
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    for asked, said in (
        ('reference', 'reference on cpu, as the environment variable MMSPARX_SCAN_BACKEND says'),
        ('nothing', "none: unknown selective-scan backend 'nothing', asked for by .*"),
    ):
        monkeypatch.setenv('MMSPARX_SCAN_BACKEND', asked)
        assert command_line.build_runner(Config()) is runner
        assert re.fullmatch(f'mmsparx {mmsparx.__version__}; backend of the selective scan: {said}', lines.pop())
