"""SCA, the spatial cross-attention of FcaFormer."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmsparx.layers.aggregators.parts import spatial_reducer, stack
from mmsparx.layers.attention import attend, merge_heads, split_heads
from mmsparx.layers.checks import check_heads
from mmsparx.layers.norm import map_norm
from mmsparx.layers.pointwise import pointwise_conv
from mmsparx.layers.recompute import recomputable
from mmsparx.registry import AGGREGATORS


@AGGREGATORS.register_module()
class SCA(nn.Module):
    """Positions of the input attend to those of the sources (Table 5; FcaFormer, Zhang, Hu and Wang, 2023).

    The sources go through a norm of one group over all their channels and the spatial reduction. By default, one 1x1
    convolution makes keys and values of all of them together, and what was retrieved is concatenated with the input;
    with `own_tokens`, the input's own positions, which are not reduced, are keys, too, each source has keys and values
    of its own, and what was retrieved goes on alone. FcaFormer's class token, depth biases and token scales are left
    out.

    Fitted to the paper's figures: the parameters agree, for which the reducer has no bias, though the convolutions have
    one; with it there would be 3,584 more in SparX-Mamba-T. Does not agree with the paper: it prints 5.2 G
    multiply-adds, and this has 5.12; `own_tokens` has 5.52, or 5.08 without the attention products, and a memory that
    grows with (H W)^2, as the paper's does.

    Args:
        dim: Number of channels of the input and of each source, C; a multiple of `heads`.
        out_dim: Number of channels of the output.
        sources: Number of sources, m.
        reduction: Stride per side of the spatial reduction of the sources, r.
        norm_cfg: Config of the batch norms, see `mmsparx.layers.norm.build_norm`.
        heads: Number of heads of the attention.
        own_tokens: Whether the input's positions are keys and values, too.

    Raises:
        ValueError: `heads` does not divide `dim`, or `reduction` is below 1.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        sources: int,
        *,
        reduction: int,
        norm_cfg: Mapping,
        heads: int = 4,
        own_tokens: bool = False,
    ):
        super().__init__()
        check_heads('SCA', dim, heads)
        self.heads = heads
        self.own_tokens = own_tokens
        stacked = sources * dim
        self.source_norm = map_norm(stacked)
        self.reduce = spatial_reducer(stacked, reduction, norm_cfg)
        if own_tokens:
            self.qkv = pointwise_conv(dim, 3 * dim)
            self.kv = nn.ModuleList(pointwise_conv(dim, 2 * dim) for _ in range(sources))
        else:
            self.q = pointwise_conv(dim, dim)
            self.kv = pointwise_conv(stacked, 2 * dim)
        self.proj = pointwise_conv(dim, dim)
        self.mix = pointwise_conv(dim if own_tokens else 2 * dim, out_dim)

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        """x and each source (B, C, H, W) -> (B, out_dim, H, W)."""
        reduced = self.reduce(recomputable(self.source_norm, recomputable(stack, *sources)))
        if self.own_tokens:
            query, *own = self.qkv(x).chunk(3, dim=1)
            others = (
                kv(part).chunk(2, dim=1) for kv, part in zip(self.kv, reduced.chunk(len(sources), 1), strict=True)
            )
            pairs = [own, *others]
        else:
            query, pairs = self.q(x), [self.kv(reduced).chunk(2, dim=1)]
        # (B, heads, all positions, C / heads)
        key, value = (
            torch.cat([split_heads(part, self.heads) for part in parts], 2) for parts in zip(*pairs, strict=True)
        )
        retrieved = self.proj(merge_heads(attend(split_heads(query, self.heads), key, value), *x.shape[2:]))
        return self.mix(retrieved if self.own_tokens else torch.cat((x, retrieved), 1))
