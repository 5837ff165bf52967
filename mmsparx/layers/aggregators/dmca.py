"""DMCA, the Dynamic Multi-layer Channel Aggregator of SparX."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmsparx.layers.aggregators.parts import (
    GroupedMix,
    channel_attention,
    projection,
    source_projection,
    spatial_reducer,
    split,
    stack,
)
from mmsparx.layers.basic import DepthwiseConv2d
from mmsparx.layers.checks import check_heads
from mmsparx.layers.norm import map_norm
from mmsparx.layers.pointwise import pointwise_conv
from mmsparx.layers.recompute import RecomputableSequential, recomputable
from mmsparx.ops import state_dtype
from mmsparx.registry import AGGREGATORS

# The start of a learnable scale: 1 / sqrt(N') of an 800x1333 image, as in the published detectors.
LEARNABLE_SCALE_START = (800 * 1333 / 16 / 64) ** -0.5


@AGGREGATORS.register_module()
class DMCA(nn.Module):
    """Dynamic Multi-layer Channel Aggregator (Sec. 3.1, Eq. 1).

    Queries from the layer's input retrieve channels of the sources by channel attention within
    four groups of channels; what was retrieved, the sources' values and the input are then mixed.

    Where the published checkpoints deviate from the paper, this follows them: the scale
    1 / sqrt(N') is inside the softmax, N' being the number of positions after the reduction; W1 is
    norm, depthwise convolution, BN, GELU, 1x1 convolution, GELU; BN follows W2, W3 and W4; the
    last linear layer is an interleave, a depthwise convolution, GELU and a grouped 1x1 convolution;
    and where the reduced query has the map's own size it takes the input's place.

    Args:
        dim: Number of channels of the input and of each source, C; a multiple of `groups`.
        out_dim: Number of channels of the output.
        sources: Number of sources, m.
        reduction: Stride per side of the spatial reduction of queries and keys, r.
        norm_cfg: Config of the batch norms, see `mmsparx.layers.norm.build_norm`.
        groups: Number of groups of the attention.
        learnable_scale: Whether a learnable scalar `scale` stands for 1 / sqrt(N'), as in the published
            detection checkpoints.
        shortcut: Whether the input and the values are mixed with what was retrieved. Without them ("w/o shortcut" of
            the paper's Table 11, determined by the paper), a depthwise convolution, GELU and a 1x1 convolution follow
            the attention.

    Raises:
        ValueError: `groups` does not divide `dim`, or `reduction` is below 1.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        sources: int,
        *,
        reduction: int,
        norm_cfg: Mapping,
        groups: int = 4,
        learnable_scale: bool = False,
        shortcut: bool = True,
    ):
        super().__init__()
        check_heads('DMCA', dim, groups, 'groups')
        self.groups = groups
        self.shortcut = shortcut
        self.source_norm = map_norm(sources * dim)
        self.source_proj = source_projection(sources * dim, 2 * dim, norm_cfg)
        self.q = RecomputableSequential(spatial_reducer(dim, reduction, norm_cfg), *projection(dim, norm_cfg))
        self.k = RecomputableSequential(spatial_reducer(dim, reduction, norm_cfg), *projection(dim, norm_cfg))
        self.v = RecomputableSequential(*projection(dim, norm_cfg))
        self.scale = nn.Parameter(torch.empty(1)) if learnable_scale else None
        self.mix = GroupedMix(dim, out_dim) if shortcut else plain_mix(dim, out_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.scale is not None:
            nn.init.constant_(self.scale, LEARNABLE_SCALE_START)

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        """x and each source (B, C, H, W) -> (B, out_dim, H, W)."""
        stacked = recomputable(self.source_norm, recomputable(stack, *sources))
        keys, values = split(self.source_proj(stacked), 2)
        query, key, value = self.q(x), self.k(keys), self.v(values)
        scale = None if self.scale is None else self.scale.to(state_dtype(query))
        retrieved = channel_attention(query, key, value, self.groups, scale)
        if not self.shortcut:
            return self.mix(retrieved)
        return self.mix(query if query.shape == x.shape else x, retrieved, value)


def plain_mix(dim: int, out_dim: int) -> RecomputableSequential:
    """Depthwise 3x3 convolution, GELU, 1x1 convolution."""
    # The identity keeps the place of GELU in the names of parameters.
    return RecomputableSequential(
        DepthwiseConv2d(dim, 3, activation='gelu'), nn.Identity(), pointwise_conv(dim, out_dim)
    )
