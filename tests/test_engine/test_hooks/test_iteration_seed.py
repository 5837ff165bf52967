"""Randomness that depends on seed and progress alone."""

import random
from types import SimpleNamespace

import numpy as np
import torch
from mmengine.registry import HOOKS

from mmsparx.engine import IterationSeedHook


def draw(hook, seed, epoch, iteration):
    runner = SimpleNamespace(seed=seed, epoch=epoch, iter=iteration)
    hook.before_train_epoch(runner)
    hook.before_train_iter(runner, 0)
    return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002


def test_equal_progress_draws_equally_whatever_came_before():
    hook = IterationSeedHook()
    first = draw(hook, seed=3, epoch=2, iteration=7)
    torch.rand(5)
    assert draw(hook, seed=3, epoch=2, iteration=7) == first


def test_seed_epoch_and_iteration_all_count():
    hook = IterationSeedHook()
    base = draw(hook, 3, 2, 7)
    assert all(a != b for a, b in zip(base, draw(hook, 4, 2, 7), strict=True))
    assert draw(hook, 3, 5, 7)[:2] != base[:2]
    assert draw(hook, 3, 2, 8)[2] != base[2]


def test_it_is_found_by_name():
    assert isinstance(HOOKS.build({'type': 'mmsparx.IterationSeedHook'}), IterationSeedHook)
