"""`map_norm`: what it computes, and which cases the operator covers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsparx.ops.backends import AUTO
from mmsparx.ops.map_norm import library  # noqa: F401  (registers the operator)
from mmsparx.ops.map_norm.backends import check_name
from mmsparx.ops.selective_scan.reference import state_dtype

# Elsewhere it is torch's own norm.
DEVICES = ('cpu', 'cuda')
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def map_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, backend: str = AUTO) -> Tensor:
    """GroupNorm with one group: (x - mean) / sqrt(variance + eps) * weight + bias, over channels and positions.

    On CPUs and GPUs it is one operator: statistics and all arithmetic are float32, or float64 for float64 inputs; a
    16-bit input is converted when it is read and the output when it is written. Two numbers a sample are kept for the
    backward beside x. Elsewhere it is torch's group norm.

    Differentiable in every tensor, in forward mode and as often as asked; `torch.func`'s transforms apply.

    Args:
        x: (B, C, ...); float64, float32, bfloat16 or float16.
        weight: (C,), in x's type, or in float32 beside 16 bits, or in 16 bits beside float32.
        bias: (C,), same type as weight.
        eps: Number added to the variance, which is that of the sample itself (not of what it is drawn from).
        backend: 'auto', or the name of the backend to run (see `map_norm.available_backends`); 'auto' is the best that
            can run, unless the environment variable MMSPARX_MAP_NORM_BACKEND names one.

    Returns:
        x's shape and type.

    Raises:
        ValueError: an unknown backend.
        RuntimeError: the backend asked for cannot run, and why; or as torch's group norm.
    """
    check_name(backend)
    reason = _not_covered(x, weight, bias)
    if reason is None:
        return torch.ops.mmsparx.map_norm(x, weight, bias, eps, backend)[0]
    if backend not in (AUTO, 'reference'):
        raise RuntimeError(f'map-norm backend {backend!r}, asked for by backend=, cannot run: {reason}')
    dtype = torch.promote_types(x.dtype, weight.dtype)
    return F.group_norm(x, 1, weight.to(dtype), bias.to(dtype), eps)


def _not_covered(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    """Reason why torch's norm takes this case, or None."""
    if x.device.type not in DEVICES:
        return f'it has kernels for {" and ".join(DEVICES)}, got tensors on {x.device.type}'
    if x.dtype not in _DTYPES or x.dim() < 2:
        return f'expected x of shape (B, C, ...) in one of {_DTYPES}, got {tuple(x.shape)} in {x.dtype}'
    for name, parameter in (('weight', weight), ('bias', bias)):
        if tuple(parameter.shape) != (x.shape[1],) or parameter.device != x.device:
            return (
                f'expected {name} of shape ({x.shape[1]},) on {x.device}, got {tuple(parameter.shape)} on '
                f'{parameter.device}'
            )
        if parameter.dtype not in _DTYPES or state_dtype(parameter) != state_dtype(x):
            return f'expected {name} in {x.dtype} or {state_dtype(x)}, got {parameter.dtype}'
    return None
