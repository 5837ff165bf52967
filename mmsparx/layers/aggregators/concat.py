"""Concat, the simplest aggregator of the paper's ablations."""

from collections.abc import Mapping

from torch import Tensor, nn

from mmsparx.layers.aggregators.parts import stack
from mmsparx.layers.basic import ConvFFN
from mmsparx.layers.norm import map_norm
from mmsparx.layers.recompute import recomputable
from mmsparx.registry import AGGREGATORS


@AGGREGATORS.register_module()
class Concat(nn.Module):
    """Input and sources, concatenated and fused by a feed-forward ("Concat" of Table 5).

    Norm of one group, 1x1 convolution to the output's channels, a residual depthwise 3x3 convolution, GELU, 1x1
    convolution. Fitted to the paper's figures: the paper says a Conv-FFN; its norm and hidden channels are chosen.

    Args:
        dim: Number of channels of the input and of each source, C.
        out_dim: Number of channels of the output, and hidden ones.
        sources: Number of sources, m.
        reduction: Ignored, as nothing is reduced; all aggregators are made alike.
        norm_cfg: Ignored, as there is no batch norm.
    """

    def __init__(self, dim: int, out_dim: int, sources: int, *, reduction: int, norm_cfg: Mapping):
        super().__init__()
        stacked = (sources + 1) * dim
        self.norm = map_norm(stacked)
        self.mix = ConvFFN(stacked, hidden=out_dim, out_dim=out_dim)

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        """x and each source (B, C, H, W) -> (B, out_dim, H, W)."""
        return self.mix(recomputable(self.norm, recomputable(stack, x, *sources)))
