"""The operator as torch sees it: schema, kernels, fake, derivatives (of `mmsparx.ops.derivatives`) and FLOP formula.

The schemas are the contract: a compiled extension adds kernels behind `backends`, never another
operator, so graphs that were exported with one set of backends run with any other.
"""

from functools import partial

import torch
from torch.utils.flop_counter import flop_registry, shape_wrapper

from mmsparx.ops import derivatives
from mmsparx.ops.selective_scan import cross, differentiable
from mmsparx.ops.selective_scan.backends import choose
from mmsparx.ops.selective_scan.reference import state_count, state_dtype

FORWARD = 'mmsparx::selective_scan_fwd'
BACKWARD = 'mmsparx::selective_scan_bwd'
CROSS_FORWARD = 'mmsparx::cross_selective_scan_fwd'
CROSS_BACKWARD = 'mmsparx::cross_selective_scan_bwd'

_TAGS = (torch.Tag.pt2_compliant_tag,)
_OTHERS = 'Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? delta_bias'
_INPUTS = {
    FORWARD: f'Tensor u, Tensor delta, {_OTHERS}',
    CROSS_FORWARD: f'Tensor x, Tensor step, Tensor weight, {_OTHERS}',
}

for forward, backward in ((FORWARD, BACKWARD), (CROSS_FORWARD, CROSS_BACKWARD)):
    inputs = _INPUTS[forward]
    torch.library.define(
        forward, f'({inputs}, bool delta_softplus, str backend) -> (Tensor out, Tensor states)', tags=_TAGS
    )
    # A gradient of an absent input is an empty tensor: operators cannot return optional tensors.
    gradients = ', '.join(['Tensor'] * inputs.count('Tensor'))
    torch.library.define(
        backward,
        f'(Tensor grad, {inputs}, Tensor states, bool delta_softplus, str backend) -> ({gradients})',
        tags=_TAGS,
    )


@torch.library.impl(FORWARD, 'CompositeExplicitAutograd')
def _forward(*arguments):
    *inputs, backend = arguments
    return choose(backend, inputs[0]).forward(*inputs)


@torch.library.impl(BACKWARD, 'CompositeExplicitAutograd')
def _backward(*arguments):
    *inputs, backend = arguments
    return _present(choose(backend, inputs[1]).backward(*inputs), inputs)


@torch.library.impl(CROSS_FORWARD, 'CompositeExplicitAutograd')
def _cross_forward(*arguments):
    *inputs, backend = arguments
    chosen = choose(backend, inputs[0])
    run = chosen.cross_forward or partial(cross.forward, chosen.forward)
    return run(*inputs)


@torch.library.impl(CROSS_BACKWARD, 'CompositeExplicitAutograd')
def _cross_backward(*arguments):
    *inputs, backend = arguments
    chosen = choose(backend, inputs[1])
    run = chosen.cross_backward or partial(cross.backward, chosen.backward)
    return _present(run(*inputs), inputs)


def _present(gradients, inputs):
    dtype = state_dtype(inputs[0])
    return tuple(inputs[0].new_empty(0, dtype=dtype) if gradient is None else gradient for gradient in gradients)


@torch.library.register_fake(FORWARD)
def _forward_fake(u, delta, A, B, C, D, delta_bias, delta_softplus, backend):
    return u.new_empty(u.shape), _fake_states(u, A, u.shape[2])


@torch.library.register_fake(CROSS_FORWARD)
def _cross_forward_fake(x, step, weight, A, B, C, D, delta_bias, delta_softplus, backend):
    return x.new_empty(x.shape), _fake_states(x, A, step.shape[3])


def _fake_states(u, A, length):
    return u.new_empty((u.shape[0], A.shape[0], state_count(length), A.shape[1]), dtype=state_dtype(u))


@torch.library.register_fake(BACKWARD)
@torch.library.register_fake(CROSS_BACKWARD)
def _backward_fake(grad, *arguments):
    *tensors, states, _, _ = arguments
    return tuple(states.new_empty(0) if x is None else x.new_empty(x.shape) for x in tensors)


def _present_backward(backward, *inputs):
    return _present(backward(*inputs), inputs)


derivatives.register(
    FORWARD, BACKWARD, differentiable.forward, partial(_present_backward, differentiable.backward), parameters={2, 5, 6}
)
derivatives.register(
    CROSS_FORWARD,
    CROSS_BACKWARD,
    partial(cross.forward, differentiable.forward),
    partial(_present_backward, partial(cross.backward, differentiable.backward)),
    parameters={2, 3, 6, 7},
)


def scan_macs(batch: int, groups: int, dim: int, length: int, states: int) -> int:
    """Multiply-adds of one scan as the paper counts them.

    The field's count of 9 per channel, position and state (state-spaces/mamba#110), plus the skip
    connection D, which the paper counts once for all scan directions (groups) of a block.
    """
    return 9 * batch * dim * length * states + batch * (dim // groups) * length


# torch's counter counts two per multiply-add; half its total is then the paper's figure.


def _forward_flops(u_shape, delta_shape, A_shape, B_shape, *_, out_shape=None, **__) -> int:
    batch, dim, length = u_shape
    return 2 * scan_macs(batch, B_shape[1], dim, length, A_shape[1])


def _cross_forward_flops(x_shape, step_shape, weight_shape, A_shape, *_, out_shape=None, **__) -> int:
    batch, groups, rank, length = step_shape
    dim = weight_shape[0]
    return 2 * (scan_macs(batch, groups, dim, length, A_shape[1]) + batch * dim * rank * length)


# As for torch's products, the backward counts twice as much as the forward, without recomputation.


def _backward_flops(grad_shape, *forward_shapes, out_shape=None, **__) -> int:
    return 2 * _forward_flops(*forward_shapes)


def _cross_backward_flops(grad_shape, *forward_shapes, out_shape=None, **__) -> int:
    return 2 * _cross_forward_flops(*forward_shapes)


# register_flop_formula would do the same, but in torch 2.4 it registers a formula where the counter does not look.
for operator, formula in (
    (torch.ops.mmsparx.selective_scan_fwd, _forward_flops),
    (torch.ops.mmsparx.selective_scan_bwd, _backward_flops),
    (torch.ops.mmsparx.cross_selective_scan_fwd, _cross_forward_flops),
    (torch.ops.mmsparx.cross_selective_scan_bwd, _cross_backward_flops),
):
    flop_registry[operator] = shape_wrapper(formula)
