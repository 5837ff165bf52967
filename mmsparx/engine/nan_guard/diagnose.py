"""The search for the place where a model's numbers stop being finite: one iteration, module by module."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from mmsparx.engine.common import losses, named_tensors
from mmsparx.weights.contents import strip_wrappers

T = TypeVar('T')


@dataclass(frozen=True)
class Finding:
    """Something that is not finite.

    Attributes:
        kind: 'batch', 'parameter', 'buffer', 'input of module', 'output of module', 'loss', 'gradient of
            parameter', 'gradient of input of module', 'gradient of output of module', or 'replay' for
            an error while looking.
        name: Name of the module, parameter, buffer, loss or part of the batch.
        detail: Description of the values that are not finite.
    """

    kind: str
    name: str
    detail: str

    def __str__(self) -> str:
        return f'{self.kind} {self.name!r}: {self.detail}'


def diagnose(model: nn.Module, run: Callable[[], object]) -> list[Finding]:
    """Run one iteration and find where its numbers stop being finite.

    The check covers parameters and buffers; in the order of execution, the inputs and outputs of every
    module; the losses; and if these are finite, in the order of the backward, the gradients of
    all of these. Only the first of the modules' values, and the first of the gradients, is reported:
    the others follow from it. Under gradient checkpointing a recomputed forward is not checked again, but
    its gradients are. Code compiled by torch runs uncompiled (torch 2.6 or newer; before, it may
    hide its modules).

    A tensor without gradient that holds -inf, but neither inf nor nan, is taken for a mask. Buffers are
    put back as they were, gradients are dropped; the random numbers that are drawn are the caller's.

    Args:
        model: Model to watch; findings have the names of its `named_modules` and `named_parameters`,
            without those that torch's wrappers (FSDP, compiled, checkpointed modules) insert.
        run: Function that computes the losses, calls backward without an optimizer step, and returns the losses: a
            tensor, or tensors in dicts and sequences.

    Returns:
        Findings, causes before consequences, and buffers last: a fault in training
        corrupts statistics, too. The list is empty if everything is finite. An error of `run` is the
        last finding, of the kind 'replay'.
    """
    parameters = not_finite('parameter', _clean(model.named_parameters()))
    statistics = not_finite('buffer', _but_masks(_clean(model.named_buffers())))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.zero_grad()
    with _Watch(model) as watch, _uncompiled():
        try:
            result, error = run(), []
        except Exception as raised:  # the findings so far matter more than a later error
            result, error = None, [Finding('replay', type(raised).__name__, str(raised))]
    with torch.no_grad():
        for name, buffer in buffers.items():
            model.get_buffer(name).copy_(buffer)
    model.zero_grad()
    values, gradients = watch.findings()
    bad_losses = not_finite('loss', named_tensors(result))
    return [*parameters, *values, *(bad_losses or gradients), *statistics, *error]


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every value is finite: where it is, at one reduction per tensor and one synchronisation in all."""
    tensors = [x.detach() for x in tensors if x.is_floating_point() or x.is_complex()]
    tensors = [x for x in (x._values() if x.is_sparse else x for x in tensors) if x.numel()]

    def finite(order: float) -> bool:
        norms = torch._foreach_norm(tensors, order)  # torch.nn.utils.clip_grad_norm_ computes norms like this
        return bool(torch.stack([norm.to(norms[0].device) for norm in norms]).isfinite().all())

    # A sum of squares may overflow where no value does. The largest magnitude then decides, which takes
    # 20 times as long on a CPU.
    return not tensors or finite(2) or finite(math.inf)


def not_finite(kind: str, named: Iterable[tuple[str, Tensor]]) -> list[Finding]:
    """A finding for each of the tensors that is not finite."""
    named = list(named)
    if all_finite(x for _, x in named):  # at one synchronisation in all
        return []
    return [Finding(kind, name, _describe(x)) for name, x in named if not all_finite([x])]


def not_finite_weights(state_dict: Mapping[str, Tensor], model: nn.Module) -> list[Finding]:
    """A finding for each tensor of a state dict, the model's own or an averaged one, that is not finite.

    Buffers that may be masks are exempt.
    """
    parameters = {name for name, _ in _clean(model.named_parameters())}
    named = [(name.removeprefix('module.'), x) for name, x in _clean(state_dict.items())]
    return [
        *not_finite('parameter', ((name, x) for name, x in named if name in parameters)),
        *not_finite('buffer', _but_masks((name, x) for name, x in named if name not in parameters)),
    ]


def _but_masks(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    return ((name, x) for name, x in named if not is_mask(x))


class _Watch:
    """Watches a model's modules for the first value that is not finite, and the first such gradient."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.names = {module: name or type(module).__name__ for name, module in _clean(model.named_modules())}
        self.values: list[Finding] = []
        self.gradient: Tensor | None = None
        self.places: list[tuple[str, str]] = []  # places of that gradient: outputs of a module are inputs of others

    def __enter__(self) -> '_Watch':
        self.handles = [
            parameter.register_hook(partial(self._see_gradient, 'parameter', name))
            for name, parameter in _clean(self.model.named_parameters())
            if parameter.requires_grad
        ]
        for module in self.names:
            self.handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            self.handles.append(module.register_forward_hook(self._after))
        return self

    def __exit__(self, *_) -> None:
        for handle in self.handles:
            handle.remove()

    def _before(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        origin = '; an operator between modules made it, or it came with the batch'
        self._see('input of module', self.names[module], {**dict(enumerate(args)), **kwargs}, origin)

    def _after(self, module: nn.Module, args: tuple, output: object) -> None:
        if isinstance(output, Mapping):
            output = losses(output) or output  # other log entries may be NaN, such as the accuracy of nothing
        self._see('output of module', self.names[module], output)

    def _see(self, kind: str, name: str, tree: object, origin: str = '') -> None:
        recomputing = torch._C._current_graph_task_id() != -1  # is in backward; torch's own checkpoint asks so, too
        for part, x in named_tensors(tree):
            if x.requires_grad:
                self.handles.append(x.register_hook(partial(self._see_gradient, kind, name)))
            if not self.values and not recomputing and not all_finite([x]) and not is_mask(x):
                at = f', at {part!r}' if part else ''
                self.values.append(Finding(kind, name, _describe(x) + at + origin))

    def _see_gradient(self, kind: str, name: str, gradient: Tensor) -> None:
        if self.gradient is None and not all_finite([gradient]):
            self.gradient = gradient
        if gradient is self.gradient:  # the hooks of a tensor are called in a row, with one gradient
            self.places.append((kind, name))

    def findings(self) -> tuple[list[Finding], list[Finding]]:
        """Findings of values and of gradients, at most one each."""
        if self.gradient is None:
            return self.values, []
        # A module that takes the tensor in has made its gradient, unless it passed the tensor on. Of nested
        # modules it is the innermost, which was called last.
        passed_on = {name for kind, name in self.places if kind == 'output of module'}
        takers = [place for place in self.places if place[0] == 'input of module' and place[1] not in passed_on]
        first = takers[-1] if takers else self.places[0]
        others = ''.join(f', also {kind} {name!r}' for kind, name in self.places if (kind, name) != first)
        return self.values, [Finding(f'gradient of {first[0]}', first[1], _describe(self.gradient) + others)]


def _clean(named: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
    for name, each in named:
        yield strip_wrappers(name), each


def is_mask(x: Tensor) -> bool:
    """Whether a tensor may be a mask: without gradient, and not finite in nothing but -inf."""
    return not x.requires_grad and not x.isnan().any() and not x.isposinf().any()


def _describe(x: Tensor) -> str:
    if x.numel() == 1:
        return str(x.item())
    counts = ((int(x.isnan().sum()), 'nan'), (int(x.isinf().sum()), 'inf'))
    found = ' and '.join(f'{count} {what}' for count, what in counts if count)
    return f'{found} of {x.numel()} values ({x.dtype}, {"x".join(map(str, x.shape))})'


def _uncompiled():
    return torch.compiler.set_stance('force_eager') if hasattr(torch.compiler, 'set_stance') else nullcontext()
