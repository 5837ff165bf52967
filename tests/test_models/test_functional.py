"""Networks under torch.func: tangents, second derivatives and gradients per sample."""

import pytest
import torch
from helpers import randomise, relative_error
from helpers.networks import NETWORKS, TWO_STAGES
from torch.func import functional_call, grad, jvp, vjp

from mmsparx.models import SparXNet


@pytest.fixture(params=NETWORKS)
def network(request):
    return (
        randomise(SparXNet(TWO_STAGES, out_indices=(1,), drop_path_rate=0.2, **NETWORKS[request.param])).double().eval()
    )


def test_tangents(network):
    """Tangents agree with finite differences, and with the transpose: <J t, c> = <t, J^T c>."""
    x, t = torch.randn(2, 2, 3, 22, 17, dtype=torch.float64)
    (out,), (tangent,) = jvp(network, (x,), (t,))
    step = 1e-6
    with torch.no_grad():
        difference = (network(x + step * t)[0] - network(x - step * t)[0]) / (2 * step)
    assert relative_error(tangent, difference) < 1e-6
    (again,), pull_back = vjp(network, x)
    assert relative_error(out, again) < 1e-12
    cotangent = torch.randn_like(out)
    (transposed,) = pull_back((cotangent,))
    assert relative_error((transposed * t).sum(), (tangent * cotangent).sum()) < 1e-10


def test_hessian_vector_product(network):
    """Forward over reverse against reverse over reverse."""
    x, t = torch.randn(2, 1, 3, 16, 16, dtype=torch.float64)
    loss = lambda x: network(x)[0].square().sum()
    _, ours = jvp(grad(loss), (x,), (t,))
    x.requires_grad_()
    (first,) = torch.autograd.grad(loss(x), x, create_graph=True)
    (theirs,) = torch.autograd.grad((first * t).sum(), x)
    assert theirs.any()
    assert relative_error(ours, theirs) < 1e-10


def test_gradients_per_sample(network):
    images = torch.randn(3, 3, 22, 17, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def loss(parameters, image):
        return functional_call(network, parameters, (image[None],))[0].square().sum()

    found = torch.vmap(grad(loss), in_dims=(None, 0))(parameters, images)
    for i, image in enumerate(images):
        expected = torch.autograd.grad(network(image[None])[0].square().sum(), list(network.parameters()))
        for (name, gradient), truth in zip(found.items(), expected, strict=True):
            # The gradient of a key's bias is only rounding: it adds the same to every score.
            assert relative_error(gradient[i], truth) < 1e-9 or max(gradient[i].norm(), truth.norm()) < 1e-12, name


def test_drop_path_per_sample():
    """Every sample draws its own numbers, as `randomness` requests."""
    network = SparXNet(TWO_STAGES, out_indices=(1,), drop_path_rate=0.9, norm_eval=True)
    image = torch.randn(3, 16, 16)
    draw = torch.vmap(lambda image: network(image[None])[0], randomness='different')
    outs = draw(image.expand(8, -1, -1, -1))
    assert any(not torch.equal(out, outs[0]) for out in outs)
