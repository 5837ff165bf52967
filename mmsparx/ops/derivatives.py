"""Derivatives of the operators in every mode, and vmap.

- Gradients: the operators' own backward, by a backend.
- Tangents (forward-mode AD) and second derivatives: the same, composed of differentiable torch operations.
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

    The forward takes tensors, then options, the last of which names the backend, and returns its output, alone or
    before tensors that are kept for the backward and carry no derivative. The backward takes the output's gradient, the
    same tensors, what was kept, and the options, and returns a gradient of every tensor.

    Args:
        forward, backward: Names of the operators.
        differentiable_forward, differentiable_backward: The operators composed of torch operations, without the
            argument `backend`.
        parameters: Positions of the forward's tensors that have no axis of the batch.
    """
    tensors, given = _tensor_count(forward), _tensor_count(backward)
    _register(
        forward,
        differentiable_forward,
        partial(_save, tensors),
        partial(_differentiate, _overload(backward), tensors),
    )
    _register(
        backward,
        differentiable_backward,
        partial(_save_for_second, tensors, given),
        partial(_differentiate_twice, differentiable_backward, given - 1 - tensors),
    )
    if hasattr(torch.library, 'register_vmap'):  # since torch 2.5; before, torch goes along the axis itself
        for name, rule in ((forward, partial(_vmap, parameters)), (backward, _vmap_one_by_one)):
            torch.library.register_vmap(name, partial(rule, _overload(name)))


def _overload(name: str) -> torch._ops.OpOverload:
    return getattr(torch.ops.mmsparx, name.partition('::')[2]).default


def _tensor_count(name: str) -> int:
    return sum('Tensor' in str(argument.type) for argument in _overload(name)._schema.arguments)


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
        # The dispatcher has come here with one of torch.func's transforms, on whose tensors the function is applied as
        # if it were the only one.
        with enable_single_level_autograd_function():
            return function.apply(*arguments, keyset)

    _library.impl(name.partition('::')[2], kernel, 'Autograd', with_keyset=True)


def _has_tangent(arguments: Sequence) -> bool:
    # Level 0 is the only one that torch has; torch.func in a compiled graph enters it without forward_ad's knowledge.
    return any(forward_ad.unpack_dual(x, level=0).tangent is not None for x in arguments if isinstance(x, Tensor))


def _function(
    operator: torch._ops.OpOverload, setup_context: Callable, backward: Callable
) -> type[torch.autograd.function._SingleLevelFunction]:
    """The operator as a function for autograd; its last argument is the set of dispatch keys."""

    # The base of torch.autograd.Function, whose own `apply` would run a transform of torch.func once more.
    class Function(torch.autograd.function._SingleLevelFunction):
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
                f'{operator}: a compiled graph that enters a dual level itself has no tangents of it. Enter '
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


def _save(count: int, ctx, inputs, output) -> None:
    kept = output[1:] if isinstance(output, tuple) else ()
    ctx.options = inputs[count:]
    ctx.save_for_backward(*inputs[:count], *kept)
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)  # else what is kept would get zeros as its gradient


def _differentiate(backward: Callable, count: int, ctx, grad: Tensor | None, *_) -> tuple[Tensor | None, ...]:
    if grad is None:  # the output is used, but no gradient comes back
        return (None,) * (count + len(ctx.options))
    saved = ctx.saved_tensors  # read once: gradient checkpointing allows no more
    gradients = backward(grad, *saved, *ctx.options)
    present = (None if x is None else gradient for x, gradient in zip(saved[:count], gradients, strict=True))
    return *present, *(None for _ in ctx.options)


def _save_for_second(count: int, given: int, ctx, inputs, output) -> None:
    ctx.options = inputs[given:-1]
    ctx.save_for_backward(*inputs[: 1 + count])  # kept tensors are recomputed


def _differentiate_twice(backward: Callable, kept: int, ctx, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    wanted = [i for i in range(len(saved)) if ctx.needs_input_grad[i]]

    def first(*values):
        inputs = list(saved)
        for i, value in zip(wanted, values, strict=True):
            inputs[i] = value
        return backward(*inputs, *(None for _ in range(kept)), *ctx.options)

    # Unlike that of torch.autograd.grad, the result can be differentiated again within torch.func, too.
    _, pull_back = torch.func.vjp(first, *(saved[i] for i in wanted))
    found = dict(zip(wanted, pull_back(cotangents), strict=True))
    return *(found.get(i) for i in range(len(saved))), *(None for _ in range(kept + len(ctx.options) + 1))


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
    return _axis_first([x.unflatten(0, batch) for x in _as_tuple(operator(*inputs))])


def _vmap_one_by_one(operator: Callable, info, in_dims, *arguments):
    """One after the other: a gradient of a parameter is a sum over the batch."""
    results = [
        _as_tuple(
            operator(*(x if dim is None else x.select(dim, i) for x, dim in zip(arguments, in_dims, strict=True)))
        )
        for i in range(info.batch_size)
    ]
    return _axis_first([torch.stack(parts) for parts in zip(*results, strict=True)])


def _as_tuple(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def _axis_first(outputs: list[Tensor]):
    """An operator's results with the new axis first, and the position of that axis."""
    return (outputs[0], 0) if len(outputs) == 1 else (tuple(outputs), (0,) * len(outputs))
