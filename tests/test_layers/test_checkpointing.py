"""Gradient checkpointing: the same output, gradients and running statistics."""

import copy

import torch
from torch import nn

from mmsparx.layers.checkpointing import checkpointed


def test_a_batch_counts_once():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    recomputed = copy.deepcopy(plain)
    calls = []
    recomputed[0].register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    results = []
    for run in (plain, lambda x: checkpointed(recomputed, x)):
        torch.manual_seed(0)
        out = run(x)
        results.append((out, *torch.autograd.grad(out.square().sum(), x)))
    assert len(calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    state = plain.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in recomputed.state_dict().items())
    assert state['1.num_batches_tracked'] == 1
