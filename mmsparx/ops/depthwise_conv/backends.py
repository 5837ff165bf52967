"""The implementations of the depthwise convolution, best first."""

from torch import Tensor

from mmsparx.ops import backends, implementations
from mmsparx.ops.backends import Backend
from mmsparx.ops.depthwise_conv import reference, triton_backend

VARIABLE = 'MMSPARX_DEPTHWISE_CONV_BACKEND'
OPERATOR = backends.Operator('depthwise convolution', VARIABLE)


# Best first; the last one runs on anything.
BACKENDS: list[Backend] = implementations.best_first('depthwise_conv2d', triton_backend, reference)


def available_backends() -> dict[str, str]:
    """See `mmsparx.ops.backends.available`."""
    return backends.available(BACKENDS)


def check_name(name: str, asked: str = 'backend=') -> None:
    """See `Operator.check_name`."""
    OPERATOR.check_name(BACKENDS, name, asked)


def choose(name: str, x: Tensor) -> Backend:
    """See `Operator.choose`."""
    return OPERATOR.choose(BACKENDS, name, x)
