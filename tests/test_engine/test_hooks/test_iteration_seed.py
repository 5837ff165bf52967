"""Randomness that only depends on seed and progress."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop
from torch import nn

from mmsparx.engine import IterationSeedHook


def runner(seed=3, iteration=7, **loop):
    return SimpleNamespace(seed=seed, iter=iteration, train_loop=SimpleNamespace(**loop))


def draw():
    return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002


def draw_in_training(hook, run):
    hook.before_train_iter(run, 0)
    return draw()


def draw_in_reading(hook, run):
    hook.before_train_epoch(run)
    return draw()


@pytest.mark.parametrize('drawn', [draw_in_training, draw_in_reading])
def test_equal_progress_draws_equally_whatever_came_before(drawn):
    hook = IterationSeedHook()
    first = drawn(hook, runner())
    draw()
    assert drawn(hook, runner()) == first


@pytest.mark.parametrize('drawn', [draw_in_training, draw_in_reading])
def test_seed_and_iteration_count_for_every_generator(drawn):
    hook = IterationSeedHook()
    base = drawn(hook, runner())
    for other in (runner(seed=4), runner(iteration=8)):
        assert all(a != b for a, b in zip(base, drawn(hook, other), strict=True))
    assert len(set(base)) == 3


def test_batches_and_training_draw_apart():
    hook = IterationSeedHook()
    assert all(a != b for a, b in zip(draw_in_training(hook, runner()), draw_in_reading(hook, runner()), strict=True))


def test_the_next_batch_draws_the_same_as_after_resuming():
    hook = IterationSeedHook()
    hook.after_train_iter(runner(iteration=6), 0)
    after = draw()
    assert after == draw_in_reading(hook, runner(iteration=7))
    run = runner(dataloader_iterator=iter(draw, None))
    hook.before_train_epoch(run)
    drawn = [next(run.train_loop.dataloader_iterator) for _ in range(8)]
    assert drawn[7] == after
    assert len(set(drawn)) == 8


class Resize(nn.Module):
    """Looks like mmdet's `BatchSyncRandomResize` to the hook."""

    _input_size = None

    def _get_random_size(self):
        pass


def test_sizes_that_were_drawn_are_kept_in_checkpoints():
    hook, model, checkpoint = IterationSeedHook(), nn.Sequential(nn.Linear(1, 1), Resize()), {}
    model[1]._input_size = (64, 96)
    hook.before_save_checkpoint(SimpleNamespace(model=model), checkpoint)
    for resumed, size in ((False, None), (True, (64, 96))):
        model[1]._input_size = None
        hook.after_load_checkpoint(SimpleNamespace(model=model, _resume=resumed), checkpoint)
        assert model[1]._input_size == size
    nothing = {}
    hook.before_save_checkpoint(SimpleNamespace(model=model[0]), nothing)
    assert not nothing


@pytest.mark.parametrize(('iteration', 'warned'), [(6, False), (7, True)])
def test_a_checkpoint_from_within_an_epoch(iteration, warned, monkeypatch):
    said = []
    monkeypatch.setattr('mmsparx.engine.hooks.iteration_seed.print_log', lambda message, **_: said.append(message))
    loop = object.__new__(EpochBasedTrainLoop)
    loop.dataloader, loop._epoch, loop._iter = range(3), 2, iteration
    IterationSeedHook().before_train(SimpleNamespace(train_loop=loop))
    assert [message.startswith('resumed at iteration 7, which is within epoch 3') for message in said] == [
        True
    ] * warned


def test_it_is_found_by_name():
    assert isinstance(HOOKS.build({'type': 'mmsparx.IterationSeedHook'}), IterationSeedHook)
