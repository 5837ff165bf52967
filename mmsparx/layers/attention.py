"""Attention between tokens, as windows and the spatial aggregators use it."""

import torch
from torch import Tensor

from mmsparx.ops import state_dtype

# Scores of float16 are kept within it: one past 65504 would be infinite, and softmax makes NaN of that.
_FLOAT16_LIMIT = 6e4


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v (Vaswani et al., 2017).

    The two products are in the types of their factors, 16 bits under autocast; the softmax is in float32, or float64
    for float64 inputs.

    Args:
        query: (..., N, d).
        key: (..., M, d).
        value: (..., M, d).
        bias: Broadcastable to (..., N, M).

    Returns:
        (..., N, d) in value's type; under autocast, in the type of its products.
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if scores.dtype == torch.float16:
        scores = scores.clamp(-_FLOAT16_LIMIT, _FLOAT16_LIMIT)
    scores = scores.to(state_dtype(scores))
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1).to(value.dtype) @ value


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, C, H, W) -> the tokens of each head, (B, heads, H * W, C / heads)."""
    return x.flatten(2).unflatten(1, (heads, -1)).transpose(-1, -2)


def merge_heads(x: Tensor, height: int, width: int) -> Tensor:
    """(B, heads, height * width, C / heads) -> (B, C, height, width), the inverse of `split_heads`."""
    return x.transpose(-1, -2).flatten(1, 2).unflatten(-1, (height, width))
