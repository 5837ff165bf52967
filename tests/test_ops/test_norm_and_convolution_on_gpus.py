"""The norm over whole maps and the depthwise convolution by Triton on a GPU, against float64 on a CPU."""

import pytest
import torch
import torch.nn.functional as F
from helpers import relative_error

from mmsparx.ops import depthwise_conv2d, map_norm

pytestmark = pytest.mark.gpu
# These are two roundings to 16 bits, and in float32 that of sums of terms that cancel.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
every_case = pytest.mark.parametrize(
    ('shape', 'dtype'),
    [
        ((2, 96, 50, 84), torch.float32),
        ((2, 96, 50, 84), torch.bfloat16),
        ((3, 640, 14, 14), torch.float16),
        ((64, 65, 7, 7), torch.bfloat16),
        ((2, 3, 1, 1), torch.float32),
    ],
    ids=str,
)


def compare(function, exact, tensors):
    """Assert that outputs and gradients agree, and have the same bits twice."""
    truth = results(exact, [x.double() for x in tensors], tensors[0].dtype)
    found, again = (results(function, [x.cuda() for x in tensors], tensors[0].dtype) for _ in range(2))
    for ours, repeated, theirs in zip(found, again, truth, strict=True):
        assert torch.equal(ours, repeated)
        assert relative_error(ours.cpu(), theirs) < TOLERANCE[tensors[0].dtype]


def results(function, tensors, dtype):
    leaves = [x.requires_grad_() for x in tensors]
    out = function(*leaves)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype).to(out)
    return [out, *torch.autograd.grad(out, leaves, grad)]


@every_case
def test_map_norm(shape, dtype):
    tensors = [torch.randn(size).add(1).to(dtype) for size in (shape, shape[1:2], shape[1:2])]
    compare(lambda *x: map_norm(*x, backend='triton'), lambda *x: F.group_norm(x[0], 1, *x[1:]), tensors)


@pytest.mark.parametrize(('side', 'activation'), [(3, 'gelu'), (5, 'silu'), (3, 'none')])
@every_case
def test_depthwise_conv2d(shape, dtype, side, activation):
    tensors = [torch.randn(size).to(dtype) for size in (shape, (shape[1], 1, side, side), shape[1:2])]
    options = dict(residual=True, activation=activation)
    compare(
        lambda *x: depthwise_conv2d(*x, backend='triton', **options),
        lambda *x: depthwise_conv2d(*x, backend='reference', **options),
        tensors,
    )
