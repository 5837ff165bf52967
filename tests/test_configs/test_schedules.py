"""The schedules of the configs fit the lengths of their runs."""

import re
from types import SimpleNamespace

import pytest

pytest.importorskip('mmdet', reason='the configs stand on the bases of all three libraries')
pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
import torch
from helpers.configs import CONFIGS
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmsparx.engine.hooks import schedule_check

# Configs of each schedule; the tests of the tasks compare the recipes of the other sizes with these.
LEAVES = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.glob('*ion/**/*.py')
    if re.search('sparx_t_|sparx_mamba_t_(in1k|own)|mini|shapes', path.name)
    if not re.search('_base_|ssm', str(path))
)
BATCHES = {'mmdet': 7330, 'mmseg': 1264, 'mmpretrain': 625}  # per epoch: COCO and ADE20K by 16, ImageNet by 2048


class Loader(SimpleNamespace):
    sampler = batch_sampler = None

    def __len__(self):
        return self.batches


def built(cfg: Config) -> SimpleNamespace:
    """The parts of a runner that the hook reads, with the dataset's published number of batches."""
    train_cfg, loader = cfg.train_cfg, Loader(batches=BATCHES[cfg.default_scope])
    by_epoch = 'max_epochs' in train_cfg
    loop = object.__new__(EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop)
    loop.dataloader, loop._max_epochs = loader, train_cfg.max_epochs if by_epoch else 1
    loop._max_iters = train_cfg.max_epochs * len(loader) if by_epoch else train_cfg.max_iters
    runner = object.__new__(Runner)
    runner.cfg, runner._train_loop, runner.logger = cfg, loop, SimpleNamespace(debug=lambda _: None)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=cfg.optim_wrapper.optimizer.lr)
    runner.optim_wrapper = OptimWrapper(optimizer)
    runner.param_schedulers = runner.build_param_scheduler(cfg.param_scheduler)
    return runner


@pytest.mark.parametrize('name', LEAVES)
def test_a_schedule_fits_its_run(name, monkeypatch):
    cfg = Config.fromfile(CONFIGS / name)
    init_default_scope(cfg.default_scope)
    lines = []
    monkeypatch.setattr(schedule_check, 'print_log', lambda message, **_: lines.append(message))
    HOOKS.build(dict(type='mmsparx.ScheduleCheckHook')).before_train(built(cfg))
    assert lines == []
