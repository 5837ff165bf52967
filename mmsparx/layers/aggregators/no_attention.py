"""NoAttention, DMCA without its attention."""

from collections.abc import Mapping

from torch import Tensor, nn

from mmsparx.layers.aggregators.parts import projection, source_projection, stack
from mmsparx.layers.basic import ConvFFN
from mmsparx.layers.norm import map_norm
from mmsparx.layers.recompute import RecomputableSequential, recomputable
from mmsparx.registry import AGGREGATORS


@AGGREGATORS.register_module()
class NoAttention(nn.Module):
    """Query and value of DMCA, concatenated and fused by a feed-forward ("w/o GCCA" of Table 5).

    The sources are projected to C channels instead of the 2C of keys and values, and nothing is reduced. Fitted to the
    paper's figures: the paper says which parts go and a Conv-FFN; its hidden channels, C, are chosen.

    Args:
        dim: Number of channels of the input and of each source, C.
        out_dim: Number of channels of the output.
        sources: Number of sources, m.
        reduction: Ignored, as nothing is reduced; all aggregators are made alike.
        norm_cfg: Config of the batch norms, see `mmsparx.layers.norm.build_norm`.
    """

    def __init__(self, dim: int, out_dim: int, sources: int, *, reduction: int, norm_cfg: Mapping):
        super().__init__()
        self.source_norm = map_norm(sources * dim)
        self.source_proj = source_projection(sources * dim, dim, norm_cfg)
        self.q = RecomputableSequential(*projection(dim, norm_cfg))
        self.v = RecomputableSequential(*projection(dim, norm_cfg))
        self.mix = ConvFFN(2 * dim, hidden=dim, out_dim=out_dim)

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        """x and each source (B, C, H, W) -> (B, out_dim, H, W)."""
        stacked = recomputable(self.source_norm, recomputable(stack, *sources))
        return self.mix(recomputable(stack, self.q(x), self.v(self.source_proj(stacked))))
