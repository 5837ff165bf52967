"""Parts of the aggregators: source projection, spatial reduction, projections, channel attention, fusion."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from mmsparx.layers.basic import DepthwiseConv2d
from mmsparx.layers.norm import build_norm
from mmsparx.layers.pointwise import pointwise_conv
from mmsparx.layers.precision import full_precision
from mmsparx.layers.recompute import RecomputableSequential, recomputable
from mmsparx.ops import state_dtype


def source_projection(dim: int, out_dim: int, norm_cfg: Mapping) -> RecomputableSequential:
    """W1 of Eq. 1 without its first norm: depthwise 3x3 convolution, BN, GELU, 1x1 convolution, GELU.

    Args:
        dim: Number of channels of all sources together.
        out_dim: Number of channels of the output.
        norm_cfg: Config of the batch norms, see `mmsparx.layers.norm.build_norm`.
    """
    return RecomputableSequential(
        DepthwiseConv2d(dim, 3, bias=False),
        build_norm(dim, norm_cfg),
        nn.GELU(),
        pointwise_conv(dim, out_dim),
        nn.GELU(),
    )


def stack(*maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) -> (B, g C, H, W), one after the other; a single one as it is."""
    return maps[0] if len(maps) == 1 else torch.cat(maps, 1)


def split(x: Tensor, parts: int) -> tuple[Tensor, ...]:
    """(B, g C, H, W) -> g maps (B, C, H, W), each recomputable from x."""
    # One operator, whose backward is one copy; the gradient of a slice is a map of zeros around it.
    return recomputable(partial(torch.chunk, chunks=parts, dim=1), x)


def spatial_reducer(dim: int, stride: int, norm_cfg: Mapping) -> nn.Module:
    """R of Eq. 1: a strided depthwise convolution, BN, GELU; the identity for stride 1.

    Args:
        dim: Number of channels.
        stride: Stride per side; an odd side rounds up: H -> ceil(H / stride).
        norm_cfg: Config of the batch norm, see `mmsparx.layers.norm.build_norm`.

    Raises:
        ValueError: `stride` is below 1.
    """
    if stride < 1:
        raise ValueError(f'aggregator: expected a reduction of at least 1, got {stride}')
    if stride == 1:
        return nn.Identity()
    conv = nn.Conv2d(dim, dim, stride + 1, stride, (stride + 1) // 2, groups=dim, bias=False)
    return RecomputableSequential(conv, build_norm(dim, norm_cfg), nn.GELU())


def projection(dim: int, norm_cfg: Mapping) -> list[nn.Module]:
    """W2, W3 or W4 of Eq. 1: 1x1 convolution without bias, BN."""
    return [pointwise_conv(dim, dim, bias=False), build_norm(dim, norm_cfg)]


def channel_attention(query: Tensor, key: Tensor, value: Tensor, groups: int, scale: Tensor | float | None) -> Tensor:
    """softmax(q k^T scale) v over channels, in each group of them; all up to the softmax is in float32.

    Args:
        query: (B, C, h, w).
        key: (B, C, h, w).
        value: (B, C, H, W).
        groups: Number of groups of contiguous channels.
        scale: Factor within the softmax; 1 / sqrt(h w) for None.

    Returns:
        (B, C, H, W) in value's type.
    """
    exact = state_dtype(query)
    q, k, v = (x.flatten(2).unflatten(1, (groups, -1)) for x in (query, key, value))
    q, k = q.to(exact), k.to(exact)
    if scale is None:
        scale = q.shape[-1] ** -0.5
    # Outside of the block, since torch.export cannot save one that takes a float of open sizes. Of the query, since
    # inductor takes scaled scores for those of scaled_dot_product_attention, and fuses them; in what checkpointing
    # recomputes, torch 2.11's result is garbage then.
    q = q * scale
    with full_precision(query.device):
        weights = torch.softmax(q @ k.transpose(-1, -2), dim=-1)  # (B, G, C/G, C/G)
        out = weights.to(v.dtype) @ v  # (B, G, C/G, N): an average, which 16 bits can hold
    return out.flatten(1, 2).unflatten(-1, value.shape[2:])


def interleave(*maps: Tensor) -> Tensor:
    """g maps (B, C, H, W), concatenated to g C channels, of which c * g + i moves to i * C + c.

    The concatenation is read as (C, g) and transposed.
    """
    count, channels = len(maps), maps[0].shape[1]
    if not torch.is_grad_enabled():
        # One copy instead of two. In a backward, each of the g * g slices would fill a map of zeros.
        places = ((i - j * channels) % count for i in range(count) for j in range(count))
        return torch.cat([maps[k % count][:, place::count] for k, place in enumerate(places)], 1)
    mixed = torch.stack(maps, 1).flatten(1, 2)
    return mixed.unflatten(1, (-1, len(maps))).transpose(1, 2).flatten(1, 2)


class GroupedMix(RecomputableSequential):
    """Fusion of three maps: interleave, depthwise 3x3 convolution, GELU, grouped 1x1 convolution.

    The grouped convolution gives a multiple of 3 channels; what is missing to `out_dim` is appended: averages of the
    convolution's output, by an adaptive pooling along the channel axis.

    Args:
        dim: Number of channels of each map, C.
        out_dim: Number of channels of the output.
    """

    def __init__(self, dim: int, out_dim: int):
        missing = out_dim % 3
        super().__init__(
            DepthwiseConv2d(3 * dim, 3, activation='gelu'),
            nn.Identity(),  # in the place of GELU, whose number is left out in the names of parameters
            nn.Conv2d(3 * dim, out_dim - missing, 1, groups=3),
        )
        self.missing = missing

    def forward(self, *maps: Tensor) -> Tensor:
        """Three maps (B, C, H, W) -> (B, out_dim, H, W)."""
        x = super().forward(recomputable(interleave, *maps))
        if self.missing == 0:
            return x
        count = x.shape[1]
        bins = ((i * count // self.missing, -(-(i + 1) * count // self.missing)) for i in range(self.missing))
        return torch.cat([x, *(x[:, start:stop].mean(1, keepdim=True) for start, stop in bins)], 1)
