"""`depthwise_conv2d`: what it computes, and which cases the operator covers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsparx.ops.backends import AUTO
from mmsparx.ops.depthwise_conv import library  # noqa: F401  (registers the operator)
from mmsparx.ops.depthwise_conv.backends import check_name
from mmsparx.ops.depthwise_conv.reference import ACTIVATIONS

SIDES = (3, 5)
# Elsewhere the operator would be torch's convolution, and compute it again in the backward.
DEVICES = ('cpu', 'cuda')
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_FUNCTIONS = {'none': lambda z: z, 'gelu': F.gelu, 'silu': F.silu}


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int | None = None,
    dilation: int = 1,
    residual: bool = False,
    activation: str = 'none',
    backend: str = AUTO,
) -> Tensor:
    """activation(conv(x) + bias), or activation(x + conv(x) + bias), each channel by a window of its own.

    On CPUs and GPUs, windows of 3x3 and 5x5 at stride 1 that keep the map's size are one operator. All arithmetic is
    float32, or float64 for float64 inputs; a 16-bit input is converted when it is read and the output when it is
    written. It keeps x, weight and bias for the backward, which computes again what is before the activation. All other
    cases are torch's operations one after the other, which round in between.

    Under autocast x is converted as torch's convolution does, unless it is the residual: then the output has its type.

    Differentiable in every tensor, in forward mode and as often as asked; `torch.func`'s transforms apply.

    Args:
        x: (B, C, H, W); float64, float32, bfloat16 or float16.
        weight: (M C, 1, kh, kw), in x's type, or in float32 beside 16 bits.
        bias: (M C,), same type as weight.
        stride: Stride per side.
        padding: Zeros at each side; by default half of the window, which at stride 1 keeps the map's size.
        dilation: Distance between the window's positions.
        residual: Whether x is added before the activation.
        activation: Activation: 'none', 'gelu' (the exact one) or 'silu'.
        backend: 'auto', or the name of the backend to run (see `depthwise_conv.available_backends`); 'auto' is the best
            that can run, unless the environment variable MMSPARX_DEPTHWISE_CONV_BACKEND names one.

    Returns:
        (B, M C, H', W') in x's type.

    Raises:
        ValueError: an unknown activation or backend, or a residual of another shape than the output.
        RuntimeError: the backend asked for cannot run, and why; or as torch's convolution.
    """
    check_name(backend)
    if activation not in ACTIVATIONS:
        raise ValueError(f'depthwise_conv2d: unknown activation {activation!r}; known ones: {", ".join(ACTIVATIONS)}')
    reason = _not_covered(x, weight, bias, stride, padding, dilation)
    if reason is None:
        if not residual:
            x = _as_autocast(x)
        return torch.ops.mmsparx.depthwise_conv2d(x, weight, bias, residual, activation, backend)
    if backend not in (AUTO, 'reference'):
        raise RuntimeError(f'depthwise-convolution backend {backend!r}, asked for by backend=, cannot run: {reason}')
    sides = weight.shape[-2:]
    padding = tuple(dilation * (side - 1) // 2 for side in sides) if padding is None else padding
    z = F.conv2d(x, weight, bias, stride, padding, dilation, groups=x.shape[-3])
    if residual and z.shape != x.shape:
        raise ValueError(
            f'depthwise_conv2d: expected an output of the shape of x, its residual, {tuple(x.shape)}, got '
            f'{tuple(z.shape)}; leave residual out, or choose stride, padding and channels that keep the shape'
        )
    return _FUNCTIONS[activation](x + z if residual else z)


def _not_covered(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int | None, dilation: int
) -> str | None:
    """Reason why torch's convolution takes this case, or None."""
    if x.device.type not in DEVICES:
        return f'it has kernels for {" and ".join(DEVICES)}, got tensors on {x.device.type}'
    if x.dtype not in _DTYPES or x.dim() != 4:
        return f'expected x of shape (B, C, H, W) in one of {_DTYPES}, got {tuple(x.shape)} in {x.dtype}'
    side = weight.shape[-1]
    if side not in SIDES or tuple(weight.shape) != (x.shape[1], 1, side, side):
        return f'expected weight of shape (C, 1, 3, 3) or (C, 1, 5, 5), got {tuple(weight.shape)}'
    if (stride, dilation) != (1, 1) or padding not in (None, side // 2):
        return (
            'expected a stride and a dilation of 1 and half of the window as padding, got '
            f'{stride=}, {padding=}, {dilation=}'
        )
    allowed = (x.dtype, torch.float64 if x.dtype == torch.float64 else torch.float32)
    for name, parameter in (('weight', weight), ('bias', bias)):
        if parameter is None:
            continue
        if parameter.dtype not in allowed or parameter.device != x.device:
            return (
                f'expected {name} on {x.device} in {allowed[0]} or {allowed[1]}, got {parameter.dtype} on '
                f'{parameter.device}'
            )
    return None


def _as_autocast(x: Tensor) -> Tensor:
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(device))
    return x
