"""Parts of a config that trains a small backbone on fixed images with mmengine only, and hooks that watch a run.

Configs name it in custom_imports, so that processes of their own import it too.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from torch.utils.data import Dataset

from helpers import SMALL_ARCH, randomise
from mmsparx.models import SparXMamba

IMAGES = torch.randn(4, 3, 40, 48, generator=torch.Generator().manual_seed(0))
# Two iterations of all images in two processes.
CONFIG = dict(
    custom_imports=dict(imports=['helpers.toy_run'], allow_failed_imports=False),
    model=dict(type='ToyModel', backbone=dict(norm_cfg=dict(type='SyncBN'), norm_eval=True)),
    train_dataloader=dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='InfiniteSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='ToySet'),
    ),
    env_cfg=dict(),
    train_cfg=dict(by_epoch=False, max_iters=2),
    optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
    default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False), logger=None),
)


@contextmanager
def launched_alone(monkeypatch) -> Iterator[None]:
    """Let this process be the only one that torchrun launched, and end the group that it starts."""
    for name, value in dict(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, MASTER_ADDR='127.0.0.1', MASTER_PORT=0).items():
        monkeypatch.setenv(name, str(value))
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@MODELS.register_module()
class ToyModel(BaseModel):
    """The mean of the backbone's outputs over all images."""

    def __init__(self, backbone: dict):
        super().__init__()
        self.backbone = randomise(SparXMamba(SMALL_ARCH, **backbone))

    def forward(self, inputs, mode='loss'):
        return {'loss': sum(x.square().mean() for x in self.backbone(inputs))}


@DATASETS.register_module()
class ToySet(Dataset):
    """`IMAGES`."""

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return {'inputs': IMAGES[index]}


@HOOKS.register_module()
class KeepGradients(Hook):
    """Write the gradients of every step and process; switch gradient checkpointing on after the first step."""

    def before_train(self, runner):
        runner.optim_wrapper.optimizer.register_step_pre_hook(lambda *_: self.keep(runner))

    def keep(self, runner):
        gradients = {name: parameter.grad for name, parameter in runner.model.module.named_parameters()}
        torch.save(gradients, Path(runner.work_dir, f'gradients_{runner.iter}_of_rank_{get_rank()}.pth'))
        for stage in runner.model.module.backbone.stages:
            stage.with_cp = True


@HOOKS.register_module()
class KeepWeights(Hook):
    """Write the weights of every process at the end."""

    def after_train(self, runner):
        weights = dict(runner.model.module.named_parameters())
        torch.save(weights, Path(runner.work_dir, f'weights_of_rank_{get_rank()}.pth'))


@HOOKS.register_module()
class KillDataWorker(Hook):
    """Kill the second process's data worker after the second iteration and before its checkpoint."""

    priority = 'VERY_HIGH'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if get_rank() == 1 and runner.iter + 1 == 2:
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid, signal.SIGKILL)
            time.sleep(600)  # until torch's error interrupts
