"""The operator composed of torch operations: what every backend must agree with."""

import torch
from torch import Tensor

from mmsparx.ops.selective_scan.reference import state_dtype


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The operator, and what it keeps for its backward; for the arguments, see `interface.map_norm`.

    Returns:
        out, of x's shape and type; mean and 1 / sqrt(variance + eps) of every sample, (B,) in the type of the
        arithmetic.
    """
    exact = state_dtype(x)
    if x.numel() == 0:  # torch refuses it, except for an empty batch
        empty = x.new_zeros(x.shape[0], dtype=exact)
        return x.clone(), empty, empty + eps**-0.5
    if x.device.type == 'cuda':
        return _by_var_mean(x, weight, bias, eps)
    batch, channels = x.shape[:2]
    with torch.autocast(x.device.type, enabled=False):
        out, mean, rstd = torch.native_group_norm(
            x.to(exact).contiguous(),
            weight.to(exact),
            bias.to(exact),
            batch,
            channels,
            x[0, 0].numel(),
            1,
            eps,
        )
    return out.to(x.dtype).view(x.shape), mean.view(batch), rstd.view(batch)


def _by_var_mean(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`forward` for GPUs, where torch's group norm has one block per sample: few samples leave most of it idle."""
    exact = state_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(exact)
        variance, mean = torch.var_mean(wide, tuple(range(1, x.dim())), correction=0, keepdim=True)
        rstd = torch.rsqrt(variance + eps)
        scale = rstd * _per_channel(weight, wide)
        out = torch.addcmul(_per_channel(bias, wide), wide - mean, scale)
    return out.to(x.dtype).contiguous(), mean.flatten(), rstd.flatten()


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias.

    Args:
        grad: The output's gradient, of x's shape.
        x, weight, bias, eps: Arguments of the forward.
        mean, rstd: Statistics that the forward returned.
    """
    if x.numel() == 0:
        return x.clone(), torch.zeros_like(weight), torch.zeros_like(bias)
    exact, (batch, channels) = mean.dtype, x.shape[:2]
    with torch.autocast(x.device.type, enabled=False):
        dx, dweight, dbias = torch.ops.aten.native_group_norm_backward(
            grad.to(exact).contiguous(),
            x.to(exact).contiguous(),
            mean.view(batch, 1),
            rstd.view(batch, 1),
            weight.to(exact),
            batch,
            channels,
            x[0, 0].numel(),
            1,
            [True, True, True],
        )
    return dx.to(x.dtype).view(x.shape), dweight.to(weight.dtype), dbias.to(bias.dtype)


def differentiable_forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`forward` of operations that torch differentiates in any mode, any number of times."""
    normalised, mean, rstd = _normalised(x, eps)
    with torch.autocast(x.device.type, enabled=False):
        out = normalised * _per_channel(weight, normalised) + _per_channel(bias, normalised)
    return out.to(x.dtype), mean.flatten(), rstd.flatten()


def differentiable_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, rstd: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`backward` that recomputes the statistics: the saved ones have no derivative."""
    normalised, _, rstd = _normalised(x, eps)
    dims = tuple(range(1, x.dim()))
    with torch.autocast(x.device.type, enabled=False):
        grad = grad.to(normalised.dtype)
        weighted = grad * _per_channel(weight, normalised)
        dx = weighted - weighted.mean(dims, keepdim=True)
        dx = rstd * (dx - normalised * (weighted * normalised).mean(dims, keepdim=True))
        others = (0, *dims[1:])
        dweight, dbias = (grad * normalised).sum(others), grad.sum(others)
    return dx.to(x.dtype), dweight.to(weight.dtype), dbias.to(bias.dtype)


def _normalised(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    dims = tuple(range(1, x.dim()))
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(state_dtype(x))
        mean = x.mean(dims, keepdim=True)
        centred = x - mean
        rstd = torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)
        return centred * rstd, mean, rstd


def _per_channel(parameter: Tensor, like: Tensor) -> Tensor:
    return parameter.to(like.dtype).view(-1, *(1 for _ in like.shape[2:]))
