"""Randomness as a function of seed and progress, so that a resumed run goes on as if it never stopped."""

import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsparx.registry import HOOKS


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seed what training draws from by the run's seed and its progress.

    mmengine seeds once, at the start, so a resumed run draws other stochastic depth, other region
    samples and other augmentations than the run it continues. Here the model's randomness (torch) is
    seeded before every iteration by (seed, rank, iteration), and that of augmentation (numpy and
    Python) before every epoch by (seed, rank, epoch). An iteration-based loop has one epoch and skips
    what was already drawn itself. Data workers, if any, keep mmengine's own seeds: with
    `num_workers=0` a resumed run repeats an uninterrupted one exactly.

    A run without a seed of its own gets a random one from mmengine, which its checkpoints keep.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        drawn = _seed(runner, runner.epoch)
        random.seed(drawn)
        np.random.seed(drawn)  # noqa: NPY002 (what the pipelines draw from)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        torch.manual_seed(_seed(runner, runner.iter))


def _seed(runner: Runner, progress: int) -> int:
    """A 32-bit seed; neighbouring runs, ranks and steps have unrelated ones."""
    return int(np.random.SeedSequence((runner.seed, get_rank(), progress)).generate_state(1)[0])
