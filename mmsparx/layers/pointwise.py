"""1x1 convolutions, which take most of the networks' time on CPUs."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsparx.layers.recompute import recomputable

_flatten = partial(torch.flatten, start_dim=2)


def pointwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution of stride 1.

    On CPUs, float32 maps go through a batched matrix product. torch's convolution would reorder the map to a blocked
    layout and back, which costs a fifth of its time with two threads. Tracing, compilation, export and torch.func see
    the convolution.

    Args:
        x: Map (B, C, H, W).
        weight: Kernel (O, C, 1, 1).
        bias: Bias (O,), or None.

    Returns:
        Map (B, O, H, W).
    """
    if not _as_product(x, weight, bias):
        return F.conv2d(x, weight, bias)
    kernels = weight.flatten(1).expand(x.shape[0], -1, -1)
    # The product keeps the flattened map, which is one more view to compute again where x is not kept. It is called by
    # torch.ops, since ptflops replaces torch.bmm and would count the product and the module.
    y = torch.ops.aten.bmm.default(kernels, recomputable(_flatten, x))
    if bias is not None:
        y += bias.unsqueeze(-1)
    return y.unflatten(2, x.shape[2:])


def pointwise_conv(dim: int, out_dim: int, *, bias: bool = True) -> nn.Conv2d:
    """A 1x1 convolution of stride 1 that computes `pointwise_conv2d`.

    It is an `nn.Conv2d` by type, and not a subclass, since libraries that count, prune or quantize convolutions look
    modules up by their exact type.

    Args:
        dim: Number of channels of the input.
        out_dim: Number of channels of the output.
        bias: Whether there is a bias per output channel.
    """
    conv = nn.Conv2d(dim, out_dim, 1, bias=bias)
    conv._conv_forward = pointwise_conv2d
    return conv


def _as_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    tensors = (x, weight) if bias is None else (x, weight, bias)
    return (
        x.device.type == 'cpu'
        and all(t.dtype == torch.float32 for t in tensors)
        and not torch.is_autocast_enabled('cpu')
        and x.dim() == 4
        and x.is_contiguous()
        # A convolution's error names the channels that do not fit.
        and x.shape[1] == weight.shape[1]
    )
