"""Whole networks on a GPU: every backend of the scan, graphs, several image sizes; `test_oracle` tests the truth."""

import copy

import pytest
import torch
from helpers import SMALL_ARCH, randomise, relative_error

from mmsparx.models import SparXMamba
from mmsparx.ops.selective_scan import backends

pytestmark = pytest.mark.gpu
SIZES = [(97, 131), (64, 64)]


def network(backend):
    return randomise(SparXMamba(SMALL_ARCH, token_mixer=dict(type='SS2D', backend=backend))).train()


def step(model, x):
    """The last map and all gradients of a training step."""
    out = model(x)[-1]
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(out.square().mean(), parameters, materialize_grads=True)
    return [out, torch.cat([gradient.flatten() for gradient in gradients])]


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


@pytest.mark.parametrize('backend', ['native', 'triton', 'reference'])
def test_every_backend_trains_as_on_the_cpu(backend):
    if (why := next(x for x in backends.BACKENDS if x.name == backend).missing()) is not None:
        pytest.skip(why)
    for size in SIZES:
        x = torch.randn(2, 3, *size)
        truth = step(network('reference').double(), x.double())
        found = step(network(backend).cuda(), x.cuda())
        for ours, true in zip(found, truth, strict=True):
            assert relative_error(ours.cpu(), true) < 1e-4, size


def test_a_captured_network_follows_its_input():
    model = network('auto').cuda().eval()
    first, second = (torch.randn(2, 3, 64, 96, device='cuda') for _ in range(2))
    with torch.no_grad():
        expected = model(second)[-1]
        x = first.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            model(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = model(x)[-1]
        x.copy_(second)
        graph.replay()
    assert relative_error(out, expected) < 1e-5


def test_channels_last_images_and_weights():
    model = network('auto').cuda().eval()
    x = torch.randn(2, 3, 64, 96, device='cuda')
    with torch.no_grad():
        expected = model(x)[-1]
        moved = copy.deepcopy(model).to(memory_format=torch.channels_last)
        assert relative_error(moved(x.contiguous(memory_format=torch.channels_last))[-1], expected) < 1e-5
