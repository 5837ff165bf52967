"""The implementations of the norm over whole maps, best first."""

from functools import partial

import torch
from torch import Tensor

from mmsparx.ops import backends, native
from mmsparx.ops.backends import Backend
from mmsparx.ops.map_norm import reference

VARIABLE = 'MMSPARX_MAP_NORM_BACKEND'
OPERATOR = backends.Operator('map norm', VARIABLE)


def _native_forward(*arguments) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.mmsparx.map_norm_native(*arguments)


def _native_backward(*arguments) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.mmsparx.map_norm_bwd_native(*arguments)


# Best first; the last one runs on anything.
BACKENDS: list[Backend] = [
    Backend(
        'native',
        _native_forward,
        _native_backward,
        native.missing,
        partial(native.refusal, devices=('cpu',)),
        devices=('cpu',),
    ),
    Backend('reference', reference.forward, reference.backward),
]


def available_backends() -> dict[str, str]:
    """See `mmsparx.ops.backends.available`."""
    return backends.available(BACKENDS)


def check_name(name: str, asked: str = 'backend=') -> None:
    """See `Operator.check_name`."""
    OPERATOR.check_name(BACKENDS, name, asked)


def choose(name: str, x: Tensor) -> Backend:
    """See `Operator.choose`."""
    return OPERATOR.choose(BACKENDS, name, x)
