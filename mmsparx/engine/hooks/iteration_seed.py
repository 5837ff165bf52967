"""Randomness as a function of seed and progress, so that a resumed run goes on as if it never stopped."""

import logging
import random
from collections.abc import Iterator, MutableMapping

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mmsparx.registry import HOOKS
from mmsparx.weights.loading import unwrapped

# The two kinds of draws in an iteration have a seed each: augmentations of the images, and the rest.
_DATA, _MODEL = 0, 1
_SIZES = 'drawn_sizes'


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seed all random generators of training by the run's seed and its progress.

    mmengine seeds once, at the start, so a resumed run draws other stochastic depth, other region samples, other
    mixtures of images and other augmentations than the run it continues. Here Python's, numpy's and torch's generators
    are seeded before every batch is read, and again before it is trained on, by (seed, rank, iteration). A run that is
    resumed by iterations draws the batches that it skips as well. What a batch resize (`BatchSyncRandomResize` of mmdet
    and its kind) keeps for the iterations to come is kept in the checkpoint.

    Data workers keep mmengine's own seeds, which start again with them: with `persistent_workers=True`, a run that is
    resumed by epochs draws other augmentations. A checkpoint from within an epoch repeats the epoch; a warning says so.

    A run without a seed of its own gets a random one from mmengine, which its checkpoints keep.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop) and loop.iter != loop.epoch * len(loop.dataloader):
            print_log(
                f'resumed at iteration {loop.iter}, which is within epoch {loop.epoch + 1}: the epoch is repeated from '
                'its start, and the run differs from an uninterrupted one. Resume from an epoch_*.pth to avoid that',
                logger='current',
                level=logging.WARNING,
            )

    def before_train_epoch(self, runner: Runner) -> None:
        loop = runner.train_loop
        if hasattr(loop, 'dataloader_iterator'):  # by iterations: the loop first skips trained batches
            loop.dataloader_iterator = _seeded(loop.dataloader_iterator, runner)
        else:
            _seed(runner, _DATA, runner.iter)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        _seed(runner, _MODEL, runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        _seed(runner, _DATA, runner.iter + 1)

    def before_save_checkpoint(self, runner: Runner, checkpoint: MutableMapping) -> None:
        if sizes := {name: part._input_size for name, part in _batch_resizes(runner)}:
            checkpoint[_SIZES] = sizes

    def after_load_checkpoint(self, runner: Runner, checkpoint: MutableMapping) -> None:
        if runner._resume:
            for name, part in _batch_resizes(runner):
                part._input_size = checkpoint.get(_SIZES, {}).get(name)


def _seeded(batches: Iterator, runner: Runner) -> Iterator:
    """The batches of a run from its first iteration on, each read with generators that are seeded for it."""
    iteration = 0
    while True:
        _seed(runner, _DATA, iteration)
        yield next(batches)
        iteration += 1


def _batch_resizes(runner: Runner) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a model that draw a size for the batches of several iterations."""
    for name, part in unwrapped(runner.model).named_modules():
        if hasattr(part, '_get_random_size') and hasattr(part, '_input_size'):
            yield name, part


def _seed(runner: Runner, drawn: int, iteration: int) -> None:
    """Seed all generators with 32 bits each; neighbouring runs, ranks, iterations and purposes have unrelated seeds."""
    sequence = np.random.SeedSequence((runner.seed, get_rank(), iteration, drawn))
    for_python, for_numpy, for_torch = (int(seed) for seed in sequence.generate_state(3))
    random.seed(for_python)
    np.random.seed(for_numpy)  # noqa: NPY002 (what pipelines and models draw from)
    torch.manual_seed(for_torch)
