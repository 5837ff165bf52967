"""The implementations of an operator, best first, and the choice among them.

The choice is made inside the operator, when it runs: torch.compile sees one opaque operator, and a compiled or exported
graph picks its backend on the machine that runs it.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

AUTO = 'auto'
AVAILABLE = 'available'


def _always(*_) -> None:
    return None


@dataclass(frozen=True)
class Backend:
    """One implementation of an operator.

    Attributes:
        name: Name for `backend=` and the environment variable.
        forward, backward: Functions as those of the operator's `reference`.
        missing: Function that says why it is not installed on this machine, or None.
        refusal: Function of x that says why it cannot run on such inputs, or None.
        devices: Types of device that it is meant for; 'auto' passes it over in silence on others. None: all.
    """

    name: str
    forward: Callable
    backward: Callable
    missing: Callable[[], str | None] = _always
    refusal: Callable[[Tensor], str | None] = _always
    devices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Operator:
    """Name of an operator in messages, such as 'selective scan', and environment variable of its backend."""

    name: str
    variable: str

    @property
    def _adjective(self) -> str:
        return self.name.replace(' ', '-')

    def check_name(self, backends: Sequence[Backend], name: str, asked: str) -> None:
        """Raises ValueError, listing the known ones, unless `name` is 'auto' or a backend's.

        Args:
            backends: Backends of the operator, best first.
            name: Name that was asked for.
            asked: Source of the name, for the message.
        """
        known = [AUTO, *(backend.name for backend in backends)]
        if name not in known:
            raise ValueError(
                f'unknown {self._adjective} backend {name!r}, asked for by {asked}; known ones: {", ".join(known)}'
            )

    def choose(self, backends: Sequence[Backend], name: str, x: Tensor) -> Backend:
        """The backend to run on these inputs.

        Args:
            backends: Backends of the operator, best first; the last one runs on anything.
            name: Name of a backend, which must then run, or 'auto': the environment variable if it is set, else the
                first of the list that can run. A warning, once, names a better one that is meant for x's device and
                cannot run, with the reason.
            x: First input; the others are on its device and of its type.

        Raises:
            ValueError: There is no such backend.
            RuntimeError: The backend asked for cannot run; the message says why.
        """
        asked = 'backend=' if name != AUTO else f'the environment variable {self.variable}'
        if name == AUTO:
            name = os.environ.get(self.variable) or AUTO
        self.check_name(backends, name, asked)
        passed_over = []
        for backend in backends:
            if name not in (AUTO, backend.name):
                continue
            if name == AUTO and backend.devices is not None and x.device.type not in backend.devices:
                continue
            reason = backend.missing() or backend.refusal(x)
            if reason is None:
                self._warn(backend, passed_over)
                return backend
            if name == backend.name:
                raise RuntimeError(f'{self._adjective} backend {name!r}, asked for by {asked}, cannot run: {reason}')
            passed_over.append((backend.name, reason))
        raise RuntimeError(f'no {self._adjective} backend can run on these inputs: {passed_over}')

    def explain(self, backends: Sequence[Backend], x: Tensor) -> str:
        """Explain which backend 'auto' runs on inputs like these, for a log; see `choose`, which warns.

        Raises:
            ValueError, RuntimeError: As for `choose`.
        """
        chosen = self.choose(backends, AUTO, x)
        if os.environ.get(self.variable, AUTO) not in ('', AUTO):
            return f'{chosen.name} on {x.device.type}, as the environment variable {self.variable} says'
        better = backends[: backends.index(chosen)]
        meant = (backend for backend in better if backend.devices is None or x.device.type in backend.devices)
        reasons = [f'{backend.name} cannot run: {backend.missing() or backend.refusal(x)}' for backend in meant]
        return f'{chosen.name} on {x.device.type}, {"; ".join(reasons) or "the best there is for it"}'

    def _warn(self, chosen: Backend, passed_over: list[tuple[str, str]]) -> None:
        for name, reason in passed_over:
            if (self.name, chosen.name, name) in _warned:
                continue
            _warned.add((self.name, chosen.name, name))
            warnings.warn(
                f'{self.name} runs on the slower {chosen.name!r} backend, because {name!r} cannot: {reason}. '
                f'Said once; set {self.variable} or backend= to choose one.',
                stacklevel=2,
            )


_warned: set[tuple[str, str, str]] = set()


def implement(forward: str, backward: str, choose: Callable[[str, Tensor], Backend]) -> None:
    """Let the backend that is chosen run an operator and its backward, whose last argument names it.

    Args:
        forward: Full name of the operator, which x is the first argument of.
        backward: That of its backward, which takes the gradient first.
        choose: Function of a name and x, see `Operator.choose`.
    """

    def run_forward(x, *arguments):
        *others, backend = arguments
        return choose(backend, x).forward(x, *others)

    def run_backward(grad, x, *arguments):
        *others, backend = arguments
        return choose(backend, x).backward(grad, x, *others)

    torch.library.impl(forward, 'CompositeExplicitAutograd', run_forward)
    torch.library.impl(backward, 'CompositeExplicitAutograd', run_backward)


def available(backends: Sequence[Backend]) -> dict[str, str]:
    """The backends by name, best first, each with 'available' or the reason why it is not installed.

    Which tensors an installed one takes (on which device) is asked at every call.
    """
    return {backend.name: backend.missing() or AVAILABLE for backend in backends}
