"""Activations that the backward computes again, where that costs less than keeping them.

An operation keeps its input for its own gradient. Where the input came from a cheap function (a depthwise convolution,
a norm, an activation) of something that is kept anyway, it is enough to keep how it was computed. Other than under
gradient checkpointing, costly operations (1x1 convolutions, scans) run once, and batch norms count a batch once.

It is done by torch's hooks for saved tensors, which `recomputing` sets around a layer, and by `recomputable`, which
notes the functions within it:

    def forward(self, x):
        return recomputing(self._forward, x)

    def _forward(self, x):
        h = recomputable(self.norm, x)
        return self.project(h)  # keeps x instead of h
"""

import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from operator import attrgetter

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module

_local = threading.local()
# The hooks around this call, which torch can tell since 2.8; before, all is kept.
_outer_hooks = None
if tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 8):
    _outer_hooks = torch._C._autograd._top_saved_tensors_default_hooks


def pure(module: type[nn.Module]) -> type[nn.Module]:
    """Class decorator: the module's output depends on its input and parameters alone, and it changes no state."""
    _AGAIN[module] = attrgetter('forward')
    return module


def recomputing(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Run a function; what `recomputable` gives within it is not kept for the backward.

    It has no effect where there is nothing to keep (no gradients) or others decide what is kept: within torch.compile,
    gradient checkpointing and other hooks for saved tensors, forward-mode AD, torch.func's transforms. Before torch 2.8
    it has none either.

    Args:
        function: Function to run, as a layer's forward.
        *inputs: Tensors that it takes.

    Returns:
        What the function returns.
    """
    if torch.compiler.is_compiling() or _active() is not None or not _applies():
        return function(*inputs)
    _local.recipes = _Recipes()
    try:
        with torch.autograd.graph.saved_tensors_hooks(_local.recipes.pack, _unpack):
            return function(*inputs)
    finally:
        _local.recipes = None


def recomputable(function: Callable, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
    """function(*inputs), which within `recomputing` is not kept for the backward, but computed again.

    Args:
        function: Function of tensors, cheap to compute, to a tensor or a tuple of them: a module of a class that is
            `pure` or torch's batch norm, or a function without randomness and side effects. The output of other
            modules, and of modules with hooks, is kept as usual.
        *inputs: Tensors that it takes. They are kept, unless they came from `recomputable` themselves.

    Returns:
        What the function returns.
    """
    if torch.compiler.is_compiling():
        return function(*inputs)
    recipes = _active()
    out = function(*inputs)
    if recipes is not None and (again := _again(function)) is not None:
        if isinstance(out, tuple):
            for i, part in enumerate(out):
                recipes.note(part, partial(_part, again, i), inputs)
        else:
            recipes.note(out, again, inputs)
    return out


def _part(function: Callable[..., tuple[Tensor, ...]], i: int, *inputs: Tensor) -> Tensor:
    return function(*inputs)[i]


class RecomputableSequential(nn.Sequential):
    """Modules in order; the outputs of the cheap ones are `recomputable`."""

    def forward(self, x: Tensor) -> Tensor:
        for module in self:
            x = recomputable(module, x)
        return x


class _BatchNormAgain:
    """A batch norm with the statistics of the forward, which counts no batch."""

    def __init__(self, norm: nn.BatchNorm2d):
        self.norm = norm
        self.of_batch = norm.training or norm.running_mean is None

    def __call__(self, x: Tensor) -> Tensor:
        norm = self.norm
        mean, variance = (None, None) if self.of_batch else (norm.running_mean, norm.running_var)
        return F.batch_norm(x, mean, variance, norm.weight, norm.bias, self.of_batch, 0.0, norm.eps)


class _Recipe:
    """The function and inputs that computed a tensor."""

    def __init__(self, function: Callable[..., Tensor], inputs: tuple['Tensor | _Recipe', ...], autocast):
        self._function = function
        self._inputs = inputs
        self._versions = [None if isinstance(x, _Recipe) else x._version for x in inputs]
        self._autocast = autocast
        self._uses = 0  # number of operations that would have kept the tensor
        self._left = 0  # number of those that have not used it in this backward
        self._value: Tensor | None = None

    def use(self) -> None:
        self._uses += 1
        for x in self._inputs if self._uses == 1 else ():
            if isinstance(x, _Recipe):
                x.use()

    def value(self) -> Tensor:
        """The tensor, computed when it is asked for first and released when its last user has it."""
        if self._value is None:
            self._value, self._left = self._compute(), self._uses
        value, self._left = self._value, self._left - 1
        if self._left <= 0:
            self._value = None
        return value

    def _compute(self) -> Tensor:
        for x, version in zip(self._inputs, self._versions, strict=True):
            if isinstance(x, Tensor) and x._version != version:
                raise RuntimeError(
                    'an activation that the backward computes again cannot be: its input, of shape '
                    f'{tuple(x.shape)}, is at version {x._version}, expected version {version}; it was modified by '
                    'an inplace operation after the forward'
                )
        inputs = [x.value() if isinstance(x, _Recipe) else x for x in self._inputs]
        with torch.no_grad(), self._autocast():
            return self._function(*inputs)


class _Recipes:
    """The recipes of what was computed within one `recomputing`, by the tensor's identity."""

    def __init__(self):
        self._found: dict[int, tuple[weakref.ref, int, _Recipe]] = {}

    def note(self, out: Tensor, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        if not out.requires_grad:
            return
        kept = tuple(self._recipe(x) or x.detach() for x in inputs)
        recipe = _Recipe(function, kept, _autocast_of(out.device.type))
        self._found[id(out)] = weakref.ref(out), out._version, recipe

    def pack(self, x: Tensor) -> 'Tensor | _Recipe':
        recipe = self._recipe(x)
        if recipe is None:
            return x
        recipe.use()
        return recipe

    def _recipe(self, x: Tensor) -> _Recipe | None:
        out, version, recipe = self._found.get(id(x), (lambda: None, 0, None))
        return recipe if out() is x and x._version == version else None


def _unpack(packed: 'Tensor | _Recipe') -> Tensor:
    return packed.value() if isinstance(packed, _Recipe) else packed


def _active() -> _Recipes | None:
    return getattr(_local, 'recipes', None)


def _applies() -> bool:
    return (
        torch.is_grad_enabled()
        and _outer_hooks is not None
        and torch._C._autograd._saved_tensors_hooks_is_enabled()
        and _outer_hooks(False) is None
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
    )


# Functions of a module that return the function that recomputes its output, by class, without subclasses.
_AGAIN: dict[type[nn.Module], Callable[[nn.Module], Callable[..., Tensor]]] = {
    nn.GELU: attrgetter('forward'),
    nn.SiLU: attrgetter('forward'),
    nn.BatchNorm2d: _BatchNormAgain,
}


def _again(function: Callable[..., Tensor]) -> Callable[..., Tensor] | None:
    """A function that recomputes another; None for a module that must not be, or with hooks for the forward."""
    if not isinstance(function, nn.Module):
        return function
    hooks = (
        *(function._forward_hooks, function._forward_pre_hooks, function._backward_hooks, function._backward_pre_hooks),
        *(torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks),
    )
    make = _AGAIN.get(type(function))
    return None if make is None or any(hooks) else make(function)


def _autocast_of(device: str) -> Callable[[], AbstractContextManager]:
    """Maker of a context with today's autocast of a type of device, for threads that know nothing of it."""
    if not torch.amp.is_autocast_available(device):
        return torch.no_grad
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype, enabled=enabled)
