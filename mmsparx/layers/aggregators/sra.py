"""SRA, DMCA with the spatial-reduction attention of PVT."""

from collections.abc import Mapping

from torch import Tensor, nn

from mmsparx.layers.aggregators.parts import (
    GroupedMix,
    projection,
    source_projection,
    spatial_reducer,
    split,
    stack,
)
from mmsparx.layers.attention import attend, merge_heads, split_heads
from mmsparx.layers.checks import check_heads
from mmsparx.layers.norm import map_norm
from mmsparx.layers.recompute import RecomputableSequential, recomputable
from mmsparx.registry import AGGREGATORS


@AGGREGATORS.register_module()
class SRA(nn.Module):
    """DMCA in which positions attend to positions (Table 5; PVT, Wang et al., 2021).

    Keys and values are reduced, by one and the same reducer, and queries are not; the rest is as in `DMCA`, but that
    the input always keeps its place in the mix. Fitted to the paper's figures: the paper says SRA alone; the shared
    reducer, the heads and what stays of DMCA are chosen. Memory grows with (H W)^2 / r^2.

    Args:
        dim: Number of channels of the input and of each source, C; a multiple of `heads`.
        out_dim: Number of channels of the output.
        sources: Number of sources, m.
        reduction: Stride per side of the spatial reduction of keys and values, r.
        norm_cfg: Config of the batch norms, see `mmsparx.layers.norm.build_norm`.
        heads: Number of heads of the attention.

    Raises:
        ValueError: `heads` does not divide `dim`, or `reduction` is below 1.
    """

    def __init__(self, dim: int, out_dim: int, sources: int, *, reduction: int, norm_cfg: Mapping, heads: int = 4):
        super().__init__()
        check_heads('SRA', dim, heads)
        self.heads = heads
        self.source_norm = map_norm(sources * dim)
        self.source_proj = source_projection(sources * dim, 2 * dim, norm_cfg)
        self.reduce = spatial_reducer(dim, reduction, norm_cfg)
        self.q = RecomputableSequential(*projection(dim, norm_cfg))
        self.k = RecomputableSequential(*projection(dim, norm_cfg))
        self.v = RecomputableSequential(*projection(dim, norm_cfg))
        self.mix = GroupedMix(dim, out_dim)

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        """x and each source (B, C, H, W) -> (B, out_dim, H, W)."""
        stacked = recomputable(self.source_norm, recomputable(stack, *sources))
        keys, values = split(self.source_proj(stacked), 2)
        value = self.v(values)
        tokens = (self.q(x), self.k(self.reduce(keys)), self.reduce(value))
        retrieved = merge_heads(attend(*(split_heads(t, self.heads) for t in tokens)), *x.shape[2:])
        return self.mix(x, retrieved, value)
