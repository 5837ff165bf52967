"""A replay repeats an iteration, and changes nothing."""

import random

import numpy as np
import pytest
import torch
from helpers.runners import NAN, CpuAmp, Net, images, make_runner, same, state_of, stopped
from mmengine.optim import OptimWrapper, OptimWrapperDict

from mmsparx.engine import NaNGuardHook
from mmsparx.engine.nan_guard.replay import random_state, replay, set_random_state


def draw():
    return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002


def test_random_numbers_come_again():
    state = random_state()
    first = draw()
    assert draw() != first
    set_random_state(state)
    assert draw() == first


@pytest.mark.parametrize('kind', ['plain', 'amp', 'several'])
def test_a_replay_takes_no_step_and_leaves_no_trace(tmp_path, kind):
    net = Net('gradient')
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    if kind == 'several':
        wrapper = OptimWrapperDict(a=OptimWrapper(optimizer))
        net.train_step = lambda data, optim_wrapper: Net.train_step(net, data, optim_wrapper['a'])
    else:
        wrapper = (
            OptimWrapper(optimizer, accumulative_counts=2) if kind == 'plain' else CpuAmp(optimizer, init_scale=8.0)
        )
    runner = make_runner(tmp_path, net, data=images(), iters=4, optim_wrapper=wrapper)
    runner.train()
    before, saved, state = state_of(runner), wrapper.state_dict(), random_state()
    buffers = [x.clone() for x in net.buffers()]
    data = images(1)[:2]
    batch = {key: [each[key] for each in data] for key in data[0]}
    (finding,) = replay(runner, batch, state)
    assert (finding.kind, finding.name) == ('gradient of output of module', 'drop')
    assert same(state_of(runner), before)
    assert same([*net.buffers()], buffers)
    assert wrapper.state_dict().get('loss_scaler') == saved.get('loss_scaler')
    after = draw()
    set_random_state(state)
    assert draw() == after
    if kind == 'plain':
        assert wrapper.inner_count == 4


def test_the_guard_replays_with_the_same_random_numbers(tmp_path):
    drawn = []

    def fault(h):
        drawn.append(draw())
        return h * NAN

    stopped(make_runner(tmp_path, Net(fault), NaNGuardHook(), data=images(5)))
    assert len(drawn) == 2
    assert drawn[0] == drawn[1]
