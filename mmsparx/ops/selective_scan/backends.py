"""The implementations of the selective scan, best first, and the choice among them.

The choice is made inside the operator, when it runs: torch.compile sees one opaque operator, and a
compiled or exported graph picks its backend on the machine that runs it. Every backend can read
the states that any other has saved (see `reference`), so forward and backward choose apart.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mmsparx.ops.selective_scan import native, reference, triton_backend

AUTO = 'auto'
VARIABLE = 'MMSPARX_SCAN_BACKEND'
AVAILABLE = 'available'


def _always(*_) -> None:
    return None


@dataclass(frozen=True)
class Backend:
    """One implementation of the scan.

    Attributes:
        name: what `backend=` and the environment variable call it.
        forward: as `reference.forward`.
        backward: as `reference.backward`.
        missing: () -> why it is not installed on this machine, or None.
        refusal: u -> why it cannot run on such inputs, or None.
        cross_forward, cross_backward: as those of `cross`, without the scan; None where the two above are
            to be used by them.
        devices: the types of device that it is meant for; 'auto' passes it over in silence on others. None: all.
    """

    name: str
    forward: Callable
    backward: Callable
    missing: Callable[[], str | None] = _always
    refusal: Callable[[Tensor], str | None] = _always
    cross_forward: Callable | None = None
    cross_backward: Callable | None = None
    devices: tuple[str, ...] | None = None


# Best first; the last one runs on anything.
BACKENDS: list[Backend] = [
    Backend(
        'native',
        native.forward,
        native.backward,
        native.missing,
        native.refusal,
        native.cross_forward,
        native.cross_backward,
    ),
    Backend(
        'triton',
        triton_backend.forward,
        triton_backend.backward,
        triton_backend.missing,
        triton_backend.refusal,
        triton_backend.cross_forward,
        triton_backend.cross_backward,
        devices=triton_backend.DEVICES,
    ),
    Backend('reference', reference.forward, reference.backward),
]

_told: set[tuple[str, str]] = set()


def available_backends() -> dict[str, str]:
    """The backends by name, best first, each with 'available' or the reason why it is not installed.

    Which tensors an installed one takes (on which device) is asked at every call.
    """
    return {backend.name: backend.missing() or AVAILABLE for backend in BACKENDS}


def check_name(name: str, asked: str = 'backend=') -> None:
    """Raises ValueError, listing the known ones, unless `name` is 'auto' or a backend's.

    Args:
        name: what was asked for.
        asked: by what, for the message.
    """
    known = [AUTO, *(backend.name for backend in BACKENDS)]
    if name not in known:
        raise ValueError(
            f'unknown selective-scan backend {name!r}, asked for by {asked}; known ones: {", ".join(known)}'
        )


def choose(name: str, u: Tensor) -> Backend:
    """The backend to run on these inputs.

    Args:
        name: a backend's name, which must then run, or 'auto': the environment variable
            MMSPARX_SCAN_BACKEND if it is set, else the first of the list that can run.
            Passing over a better one that is meant for u's device is told once, by name and reason.
        u: what is scanned; the other inputs are on its device and of its type.

    Raises:
        ValueError: no such backend.
        RuntimeError: the backend asked for cannot run; the message says why.
    """
    asked = 'backend=' if name != AUTO else f'the environment variable {VARIABLE}'
    if name == AUTO:
        name = os.environ.get(VARIABLE) or AUTO
    check_name(name, asked)
    passed_over = []
    for backend in BACKENDS:
        if name not in (AUTO, backend.name):
            continue
        if name == AUTO and backend.devices is not None and u.device.type not in backend.devices:
            continue
        reason = backend.missing() or backend.refusal(u)
        if reason is None:
            _tell(backend, passed_over)
            return backend
        if name == backend.name:
            raise RuntimeError(f'selective-scan backend {name!r}, asked for by {asked}, cannot run: {reason}')
        passed_over.append((backend.name, reason))
    raise RuntimeError(f'no selective-scan backend can run on these inputs: {passed_over}')


def explain(u: Tensor) -> str:
    """Which backend 'auto' runs on inputs like these, and why, for a log; see `choose`, which warns.

    Raises:
        ValueError, RuntimeError: As for `choose`.
    """
    chosen = choose(AUTO, u)
    if os.environ.get(VARIABLE, AUTO) not in ('', AUTO):
        return f'{chosen.name} on {u.device.type}, as the environment variable {VARIABLE} says'
    better = BACKENDS[: BACKENDS.index(chosen)]
    meant = (backend for backend in better if backend.devices is None or u.device.type in backend.devices)
    reasons = [f'{backend.name} cannot run: {backend.missing() or backend.refusal(u)}' for backend in meant]
    return f'{chosen.name} on {u.device.type}, {"; ".join(reasons) or "the best there is for it"}'


def _tell(chosen: Backend, passed_over: list[tuple[str, str]]) -> None:
    for name, reason in passed_over:
        if (chosen.name, name) in _told:
            continue
        _told.add((chosen.name, name))
        warnings.warn(
            f'selective scan runs on the slower {chosen.name!r} backend, because {name!r} cannot: {reason}. '
            f'Said once; set {VARIABLE} or backend= to choose one.',
            stacklevel=2,
        )
