"""The operator as torch sees it: schema, kernels, fake, autograd and FLOP formula.

The schemas are the contract: a compiled extension adds kernels behind `backends`, never another
operator, so graphs that were exported with one set of backends run with any other.
"""

import torch
from torch.utils.flop_counter import flop_registry, shape_wrapper

from mmsparx.ops.selective_scan.backends import choose
from mmsparx.ops.selective_scan.reference import state_count, state_dtype

FORWARD = 'mmsparx::selective_scan_fwd'
BACKWARD = 'mmsparx::selective_scan_bwd'

_INPUTS = 'Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias'
_TAGS = (torch.Tag.pt2_compliant_tag,)

torch.library.define(
    FORWARD, f'({_INPUTS}, bool delta_softplus, str backend) -> (Tensor out, Tensor states)', tags=_TAGS
)
# A gradient of an absent input is an empty tensor: operators cannot return optional tensors.
torch.library.define(
    BACKWARD,
    f'(Tensor grad, {_INPUTS}, Tensor states, bool delta_softplus, str backend) '
    '-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)',
    tags=_TAGS,
)


@torch.library.impl(FORWARD, 'CompositeExplicitAutograd')
def _forward(u, delta, A, B, C, D, delta_bias, delta_softplus, backend):
    run = choose(backend, (u, delta, A, B, C)).forward
    return run(u, delta, A, B, C, D, delta_bias, delta_softplus)


@torch.library.impl(BACKWARD, 'CompositeExplicitAutograd')
def _backward(grad, u, delta, A, B, C, D, delta_bias, states, delta_softplus, backend):
    run = choose(backend, (u, delta, A, B, C)).backward
    gradients = run(grad, u, delta, A, B, C, D, delta_bias, states, delta_softplus)
    return tuple(A.new_empty(0) if gradient is None else gradient for gradient in gradients)


@torch.library.register_fake(FORWARD)
def _forward_fake(u, delta, A, B, C, D, delta_bias, delta_softplus, backend):
    batch, dim, length = u.shape
    states = u.new_empty((batch, dim, state_count(length), A.shape[1]), dtype=state_dtype(u))
    return u.new_empty((batch, dim, length)), states


@torch.library.register_fake(BACKWARD)
def _backward_fake(grad, u, delta, A, B, C, D, delta_bias, states, delta_softplus, backend):
    return tuple(A.new_empty(0) if x is None else x.new_empty(x.shape) for x in (u, delta, A, B, C, D, delta_bias))


def _save(ctx, inputs, output):
    *tensors, ctx.delta_softplus, ctx.backend = inputs
    states = output[1]
    ctx.save_for_backward(*tensors, states)
    ctx.mark_non_differentiable(states)


def _differentiate(ctx, grad, _):
    saved = ctx.saved_tensors  # read once: gradient checkpointing allows no more
    gradients = torch.ops.mmsparx.selective_scan_bwd(grad, *saved, ctx.delta_softplus, ctx.backend)
    present = (None if x is None else gradient for x, gradient in zip(saved, gradients, strict=False))
    return *present, None, None


def _refuse_second_derivative(ctx, *_):
    raise RuntimeError('selective_scan can be differentiated once; its second derivative is not implemented')


torch.library.register_autograd(FORWARD, _differentiate, setup_context=_save)
torch.library.register_autograd(BACKWARD, _refuse_second_derivative)


def scan_macs(batch: int, groups: int, dim: int, length: int, states: int) -> int:
    """Multiply-adds of one scan as the paper counts them.

    The field's count of 9 per channel, position and state (state-spaces/mamba#110), plus the skip
    connection D, which the paper counts once for all scan directions (groups) of a block.
    """
    return 9 * batch * dim * length * states + batch * (dim // groups) * length


def _forward_flops(u_shape, delta_shape, A_shape, B_shape, *_, out_shape=None, **__) -> int:
    # torch's counter counts two per multiply-add; half its total is then the paper's figure.
    batch, dim, length = u_shape
    return 2 * scan_macs(batch, B_shape[1], dim, length, A_shape[1])


def _backward_flops(grad_shape, *forward_shapes, out_shape=None, **__) -> int:
    # As torch does for products: the backward counts twice the forward, recomputation aside.
    return 2 * _forward_flops(*forward_shapes)


# What register_flop_formula does, but for torch 2.4, which files a formula where its counter does not look.
flop_registry[torch.ops.mmsparx.selective_scan_fwd] = shape_wrapper(_forward_flops)
flop_registry[torch.ops.mmsparx.selective_scan_bwd] = shape_wrapper(_backward_flops)
