"""The place that a run logs to, set by one line of a config."""

import json

import pytest

pytest.importorskip('mmengine', reason='it trains')
pytest.importorskip('tensorboard', reason='it is what is logged by')
from helpers.toy_run import CONFIG
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmsparx.__main__ import main


def test_tensorboard(tmp_path):
    """With the line of docs/commands.md, TensorBoard has the scalars of the log."""
    for kept in (MessageHub, MMLogger, Visualizer):  # mmengine keeps them by name in a process
        kept._instance_dict.clear()
    config = Config({**CONFIG, 'model': dict(type='ToyModel', backbone={})})
    config.default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
    config.dump(tmp_path / 'base.py')
    line = "visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])"
    (tmp_path / 'toy.py').write_text(f"_base_ = './base.py'\n{line}\nvisualizer['type'] = 'Visualizer'\n")
    assert main(['train', str(tmp_path / 'toy.py'), '--work-dir', str(tmp_path / 'work')]) == 0
    (folder,) = (tmp_path / 'work').glob('*/vis_data')
    logged = [json.loads(line) for line in (folder / 'scalars.json').read_text().splitlines()]
    events = EventAccumulator(str(folder)).Reload()
    found = [(event.step, event.value) for event in events.Scalars('loss')]
    assert [step for step, _ in found] == [record['step'] for record in logged] == [1, 2]
    assert [value for _, value in found] == pytest.approx([record['loss'] for record in logged])
