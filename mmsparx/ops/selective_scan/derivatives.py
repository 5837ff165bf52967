"""Derivatives of the operators in every mode, and vmap.

- Gradients: the operators' own backward, by a backend.
- Tangents (forward-mode AD) and second derivatives: `differentiable`, composed of torch operations.
- torch.func: `torch.library.register_autograd` refuses its transforms and drops tangents without a word, so the kernel
  for autograd is one of our own.
- vmap: along the batch where the parameters are shared, else one after the other, since a gradient of a parameter is a
  sum over the batch.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad


def register(
    forward: str,
    backward: str,
    differentiable_forward: Callable,
    differentiable_backward: Callable,
    parameters: Collection[int],
) -> None:
    """Register the derivatives, and vmap, of a forward operator and of its backward.

    Args:
        forward, backward: Names of the operators.
        differentiable_forward, differentiable_backward: The same, composed of torch operations, without the argument
            `backend`.
        parameters: Positions of the forward's tensors that have no axis of the batch.
    """
    gradients = partial(_differentiate, _overload(backward))
    second = partial(_differentiate_twice, differentiable_backward)
    _register(forward, differentiable_forward, _save, gradients)
    _register(backward, differentiable_backward, _save_for_second, second)
    if hasattr(torch.library, 'register_vmap'):  # since torch 2.5; before, torch goes along the axis itself
        for name, rule in ((forward, partial(_vmap, parameters)), (backward, _vmap_one_by_one)):
            torch.library.register_vmap(name, partial(rule, _overload(name)))


def _overload(name: str) -> torch._ops.OpOverload:
    return getattr(torch.ops.mmsparx, name.partition('::')[2]).default


_library = torch.library.Library('mmsparx', 'FRAGMENT')


def _register(name: str, differentiable: Callable, setup_context: Callable, backward: Callable) -> None:
    function = _function(_overload(name), setup_context, backward)

    def kernel(keyset, *arguments):
        # Here and not above the operator: graphs that call it get tangents, too.
        transformed = torch._C._are_functorch_transforms_active()
        if (transformed or forward_ad._current_level >= 0) and _has_tangent(arguments):
            return differentiable(*arguments[:-1])
        if not transformed:
            return function.apply(*arguments, keyset)
        # Of torch.func's transforms the dispatcher has come to this operator with one, on whose tensors a function is
        # applied as if it were the only one.
        with enable_single_level_autograd_function():
            return super(torch.autograd.Function, function).apply(*arguments, keyset)

    _library.impl(name.partition('::')[2], kernel, 'Autograd', with_keyset=True)


def _has_tangent(arguments: Sequence) -> bool:
    # Level 0 is the only one that torch has; torch.func in a compiled graph enters it without forward_ad's knowledge.
    return any(forward_ad.unpack_dual(x, level=0).tangent is not None for x in arguments if isinstance(x, Tensor))


def _function(
    operator: torch._ops.OpOverload, setup_context: Callable, backward: Callable
) -> type[torch.autograd.Function]:
    """The operator as a function for autograd; its last argument is the set of dispatch keys."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *arguments):
            *arguments, keyset = arguments
            with torch._C._AutoDispatchBelowAutograd(), _modes():
                output = operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)
            setup_context(ctx, arguments, output)
            return output

        @staticmethod
        def backward(ctx, *gradients):
            return *backward(ctx, *gradients), None

        @staticmethod
        def jvp(ctx, *_):
            raise RuntimeError(
                'selective_scan: a compiled graph that enters a dual level itself has no tangents of the scan. Enter '
                'torch.autograd.forward_ad.dual_level() outside of torch.compile, or use torch.func.jvp in it'
            )

    return Function


@contextmanager
def _modes():
    """Turns on what a function turns off, where further transforms of torch.func need it."""
    if not torch._C._are_functorch_transforms_active():
        yield
        return
    with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
        yield


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.delta_softplus, ctx.backend = inputs
    states = output[1]
    ctx.save_for_backward(*tensors, states)
    ctx.mark_non_differentiable(states)


def _differentiate(backward: Callable, ctx, grad: Tensor, _) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # read once: gradient checkpointing allows no more
    gradients = backward(grad, *saved, ctx.delta_softplus, ctx.backend)
    present = (None if x is None else gradient for x, gradient in zip(saved, gradients, strict=False))
    return *present, None, None


def _save_for_second(ctx, inputs, output) -> None:
    *tensors, _, ctx.delta_softplus, _ = inputs  # the saved states are computed again
    ctx.save_for_backward(*tensors)


def _differentiate_twice(backward: Callable, ctx, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    wanted = [i for i in range(len(saved)) if ctx.needs_input_grad[i]]

    def first(*values):
        inputs = list(saved)
        for i, value in zip(wanted, values, strict=True):
            inputs[i] = value
        return backward(*inputs, None, ctx.delta_softplus)

    # Not torch.autograd.grad: within torch.func, too, the result can be differentiated again.
    _, pull_back = torch.func.vjp(first, *(saved[i] for i in wanted))
    found = dict(zip(wanted, pull_back(cotangents), strict=True))
    return *(found.get(i) for i in range(len(saved))), None, None, None


def _vmap(parameters: Collection[int], operator: Callable, info, in_dims, *arguments):
    """Along the batch, where the parameters are shared."""
    if any(in_dims[i] is not None for i in parameters):
        return _vmap_one_by_one(operator, info, in_dims, *arguments)
    inputs = list(arguments)
    for i, (x, dim) in enumerate(zip(arguments, in_dims, strict=True)):
        if isinstance(x, Tensor) and i not in parameters:
            x = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            batch = x.shape[:2]
            inputs[i] = x.flatten(0, 1)
    return tuple(x.unflatten(0, batch) for x in operator(*inputs)), (0, 0)


def _vmap_one_by_one(operator: Callable, info, in_dims, *arguments):
    """One after the other: a gradient of a parameter is a sum over the batch."""
    results = [
        operator(*(x if dim is None else x.select(dim, i) for x, dim in zip(arguments, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    outputs = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return outputs, (0,) * len(outputs)
