"""The operator as torch sees it: schema, kernels, fake, derivatives and FLOP formula.

As for the scan, the schemas are the contract: graphs that were exported with one set of backends run with any other.
"""

import torch
from torch.utils.flop_counter import flop_registry, shape_wrapper

from mmsparx.ops import backends, derivatives
from mmsparx.ops.depthwise_conv import reference
from mmsparx.ops.depthwise_conv.backends import choose

FORWARD = 'mmsparx::depthwise_conv2d'
BACKWARD = 'mmsparx::depthwise_conv2d_bwd'

_TAGS = (torch.Tag.pt2_compliant_tag,)
_INPUTS = 'Tensor x, Tensor weight, Tensor? bias, bool residual, str activation, str backend'

torch.library.define(FORWARD, f'({_INPUTS}) -> Tensor', tags=_TAGS)
# The gradient of an absent bias is an empty tensor: operators cannot return optional tensors.
torch.library.define(BACKWARD, f'(Tensor grad, {_INPUTS}) -> (Tensor, Tensor, Tensor)', tags=_TAGS)


backends.implement(FORWARD, BACKWARD, choose)


@torch.library.register_fake(FORWARD)
def _forward_fake(x, weight, bias, residual, activation, backend):
    return x.new_empty(x.shape)


@torch.library.register_fake(BACKWARD)
def _backward_fake(grad, x, weight, bias, residual, activation, backend):
    dbias = weight.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), dbias


derivatives.register(FORWARD, BACKWARD, reference.forward, reference.differentiable_backward, parameters={1, 2})


# Like torch's formula for convolutions, these count two per multiply-add, only of the window.


def _forward_flops(x_shape, weight_shape, *_, out_shape=None, **__) -> int:
    batch, channels, height, width = x_shape
    return 2 * batch * channels * height * width * weight_shape[2] * weight_shape[3]


def _backward_flops(grad_shape, x_shape, weight_shape, *_, out_shape=None, **__) -> int:
    return 2 * _forward_flops(x_shape, weight_shape)


# register_flop_formula would do the same, but in torch 2.4 it registers a formula where the counter does not look.
for operator, formula in (
    (torch.ops.mmsparx.depthwise_conv2d, _forward_flops),
    (torch.ops.mmsparx.depthwise_conv2d_bwd, _backward_flops),
):
    flop_registry[operator] = shape_wrapper(formula)
