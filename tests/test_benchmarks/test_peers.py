"""The pure-torch forms compute the operator's function."""

import pytest
import torch
from helpers import naive_scan, relative_error

from benchmarks.peers import PEERS
from mmsparx.ops import selective_scan

# exp and log of Heinsen's form lose digits over the sequence, in float64 too.
TOLERANCE = {'heinsen': 1e-9}


def inputs(length, states, groups=2, channels=6, batch=2):
    x = dict(
        u=torch.randn(batch, channels, length),
        delta=0.5 * torch.randn(batch, channels, length),
        A=-torch.rand(channels, states) - 0.5,
        B=torch.randn(batch, groups, states, length),
        C=torch.randn(batch, groups, states, length),
        D=torch.randn(channels),
        delta_bias=torch.randn(channels) - 3,
    )
    return {name: tensor.double().requires_grad_() for name, tensor in x.items()}


@pytest.mark.parametrize('states', [1, 3])
@pytest.mark.parametrize('length', [1, 2, 3, 16, 49, 63])
@pytest.mark.parametrize('name', PEERS)
def test_outputs_and_gradients_are_the_operators(name, length, states):
    if name == 'associative-scan':
        pytest.importorskip('torch._higher_order_ops.associative_scan', reason='this torch has no associative_scan')
    x = inputs(length, states)
    tolerance = TOLERANCE.get(name, 1e-12)
    expected = selective_scan(**x, delta_softplus=True, backend='reference')
    actual = PEERS[name](**x)
    assert relative_error(actual, naive_scan(**x, delta_softplus=True)[0]) < tolerance
    grad = torch.randn_like(expected)
    for key, ours, true in zip(
        x,
        torch.autograd.grad(actual, list(x.values()), grad, materialize_grads=True),
        torch.autograd.grad(expected, list(x.values()), grad),
        strict=True,
    ):
        assert relative_error(ours, true) < tolerance, key


@pytest.mark.parametrize('name', PEERS)
def test_inputs_stay_as_they_were(name):
    if name == 'associative-scan':
        pytest.importorskip('torch._higher_order_ops.associative_scan', reason='this torch has no associative_scan')
    x = {key: tensor.detach() for key, tensor in inputs(20, 1).items()}
    before = {key: tensor.clone() for key, tensor in x.items()}
    PEERS[name](**x)
    assert all(torch.equal(x[key], before[key]) for key in x)
