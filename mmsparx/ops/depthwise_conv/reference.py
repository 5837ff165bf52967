"""The operator composed of differentiable torch operations: what every backend must agree with."""

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ('none', 'gelu', 'silu')
_FUNCTIONS = {'none': lambda z: z, 'gelu': F.gelu, 'silu': F.silu}


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool, activation: str) -> Tensor:
    """The operator; for the arguments, see `interface.depthwise_conv2d`."""
    if x.numel() == 0:  # torch refuses it, except for an empty batch
        return x.clone()
    with torch.autocast(x.device.type, enabled=False):
        return _FUNCTIONS[activation](_before_activation(x, weight, bias, residual)).contiguous()


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias; an empty tensor for that of an absent bias.

    What is before the activation is computed again.

    Args:
        grad: (B, C, H, W), the output's gradient.
        x, weight, bias, residual, activation: Arguments of the forward.
    """
    if x.numel() == 0:
        return x.clone(), torch.zeros_like(weight), weight.new_empty(0) if bias is None else torch.zeros_like(bias)
    with torch.autocast(x.device.type, enabled=False):
        grad = _through_activation(grad, x, weight, bias, residual, activation)
        halo = weight.shape[-1] // 2
        dx, dweight, dbias = torch.ops.aten.convolution_backward(
            grad,
            x,
            weight.to(x.dtype),
            [x.shape[1]],
            [1, 1],
            [halo, halo],
            [1, 1],
            False,
            [0, 0],
            x.shape[1],
            [True, True, True],
        )
    dx = dx + grad if residual else dx
    dbias = weight.new_empty(0) if bias is None else dbias.to(bias.dtype)
    return dx.contiguous(), dweight.to(weight.dtype).contiguous(), dbias


def differentiable_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """`backward` of operations that torch differentiates with open sizes, too: a sum for each of the weights."""
    with torch.autocast(x.device.type, enabled=False):
        grad = _through_activation(grad, x, weight, bias, residual, activation)
        side, (height, width) = weight.shape[-1], x.shape[2:]
        halo = side // 2
        dx = F.conv2d(grad, weight.flip(2, 3).to(x.dtype), padding=halo, groups=x.shape[1])
        padded = F.pad(x, (halo,) * 4)
        windows = (padded[..., i : i + height, j : j + width] for i in range(side) for j in range(side))
        dweight = torch.stack([(window * grad).sum((0, 2, 3)) for window in windows], 1)
    dbias = weight.new_empty(0) if bias is None else grad.sum((0, 2, 3)).to(bias.dtype)
    return dx + grad if residual else dx, dweight.view(weight.shape).to(weight.dtype), dbias


def _through_activation(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool, activation: str
) -> Tensor:
    """The gradient of what is before the activation."""
    if activation == 'none':
        return grad
    z = _before_activation(x, weight, bias, residual)
    return torch.ops.aten.gelu_backward(grad, z) if activation == 'gelu' else _silu_backward(grad, z)


def _before_activation(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
    bias = None if bias is None else bias.to(x.dtype)
    z = F.conv2d(x, weight.to(x.dtype), bias, padding=weight.shape[-1] // 2, groups=x.shape[1])
    return x + z if residual else z


def _silu_backward(grad: Tensor, z: Tensor) -> Tensor:
    # torch's own operator does not have a second derivative on all devices.
    s = torch.sigmoid(z)
    return grad * (s * (1 + z * (1 - s)))
