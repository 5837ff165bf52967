"""The implementations of the selective scan, best first.

Every backend can read the states that any other has saved (see `reference`), so forward and backward choose apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mmsparx.ops import backends, triton_runtime
from mmsparx.ops import native as kernels
from mmsparx.ops.backends import AUTO
from mmsparx.ops.selective_scan import native, reference, triton_backend

VARIABLE = 'MMSPARX_SCAN_BACKEND'
OPERATOR = backends.Operator('selective scan', VARIABLE)


@dataclass(frozen=True)
class Backend(backends.Backend):
    """One implementation of the scan.

    Attributes:
        cross_forward, cross_backward: Functions like those of `cross`, without the scan; None if these use `forward`
            and `backward`.
    """

    cross_forward: Callable | None = None
    cross_backward: Callable | None = None


# Best first; the last one runs on anything.
BACKENDS: list[Backend] = [
    Backend(
        'native',
        native.forward,
        native.backward,
        kernels.missing,
        kernels.refusal,
        cross_forward=native.cross_forward,
        cross_backward=native.cross_backward,
    ),
    Backend(
        'triton',
        triton_backend.forward,
        triton_backend.backward,
        *triton_runtime.CONDITIONS,
        triton_backend.cross_forward,
        triton_backend.cross_backward,
    ),
    Backend('reference', reference.forward, reference.backward),
]


def available_backends() -> dict[str, str]:
    """See `mmsparx.ops.backends.available`."""
    return backends.available(BACKENDS)


def check_name(name: str, asked: str = 'backend=') -> None:
    """See `Operator.check_name`."""
    OPERATOR.check_name(BACKENDS, name, asked)


def choose(name: str, u: Tensor) -> Backend:
    """See `Operator.choose`."""
    return OPERATOR.choose(BACKENDS, name, u)


def explain(u: Tensor) -> str:
    """See `Operator.explain`."""
    return OPERATOR.explain(BACKENDS, u)


__all__ = ['AUTO', 'BACKENDS', 'VARIABLE', 'Backend', 'available_backends', 'check_name', 'choose', 'explain']
