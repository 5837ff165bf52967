"""DMCA, the Dynamic Multi-layer Channel Aggregator of SparX."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmsparx.layers.norm import batch_norm, map_norm
from mmsparx.layers.precision import full_precision
from mmsparx.ops import state_dtype
from mmsparx.registry import AGGREGATORS

# The start of a learnable scale: 1 / sqrt(N') of an 800x1333 picture, as in the published detectors.
LEARNABLE_SCALE_START = (800 * 1333 / 16 / 64) ** -0.5


def spatial_reducer(dim: int, stride: int, norm_cfg: Mapping) -> nn.Module:
    """R of Eq. 1: a strided depthwise convolution, BN, GELU; the identity for stride 1.

    An odd side rounds up: H -> ceil(H / stride).
    """
    if stride == 1:
        return nn.Identity()
    conv = nn.Conv2d(dim, dim, stride + 1, stride, (stride + 1) // 2, groups=dim, bias=False)
    return nn.Sequential(conv, batch_norm(dim, norm_cfg), nn.GELU())


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
        dim: C, channels of the input and of each source; a multiple of `groups`.
        out_dim: channels of the output.
        sources: m, number of sources.
        reduction: r, stride per side of the spatial reduction of queries and keys.
        groups: of the attention.
        learnable_scale: a learnable scalar `scale` instead of 1 / sqrt(N'), as in the published
            detection checkpoints.
        norm_cfg: of the batch norms, see `mmsparx.layers.norm.batch_norm`.

    Raises:
        ValueError: `groups` does not divide `dim`.
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
    ):
        super().__init__()
        if dim % groups:
            raise ValueError(f'DMCA: expected channels that {groups} attention groups divide, got {dim}')
        self.groups = groups
        stacked = sources * dim
        self.source_norm = map_norm(stacked)
        self.source_proj = nn.Sequential(
            nn.Conv2d(stacked, stacked, 3, padding=1, groups=stacked, bias=False),
            batch_norm(stacked, norm_cfg),
            nn.GELU(),
            nn.Conv2d(stacked, 2 * dim, 1),
            nn.GELU(),
        )

        def projection():
            return [nn.Conv2d(dim, dim, 1, bias=False), batch_norm(dim, norm_cfg)]

        self.q = nn.Sequential(spatial_reducer(dim, reduction, norm_cfg), *projection())
        self.k = nn.Sequential(spatial_reducer(dim, reduction, norm_cfg), *projection())
        self.v = nn.Sequential(*projection())
        self.scale = nn.Parameter(torch.full((1,), LEARNABLE_SCALE_START)) if learnable_scale else None
        # The grouped convolution gives a multiple of 3 channels; `missing` more are averages of them.
        self.missing = out_dim % 3
        self.mix = nn.Sequential(
            nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=3 * dim),
            nn.GELU(),
            nn.Conv2d(3 * dim, out_dim - self.missing, 1, groups=3),
        )

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        """x and each source (B, C, H, W) -> (B, out_dim, H, W)."""
        keys, values = self.source_proj(self.source_norm(torch.cat(sources, 1))).chunk(2, dim=1)
        query, key, value = self.q(x), self.k(keys), self.v(values)
        retrieved = self._attend(query, key, value)
        if query.shape == x.shape:
            x = query
        mixed = torch.stack((x, retrieved, value), 1)  # (B, 3, C, H, W)
        # Read as (C, 3) and transposed: channel c * 3 + g moves to g * C + c.
        mixed = mixed.flatten(1, 2).unflatten(1, (-1, 3)).transpose(1, 2).flatten(1, 2)
        return self._fill(self.mix(mixed))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """softmax(q k^T scale) v over channels, in each group; products and softmax in float32."""
        exact = state_dtype(query)
        q, k, v = (x.flatten(2).unflatten(1, (self.groups, -1)).to(exact) for x in (query, key, value))
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale.to(exact)
        with full_precision(query.device):
            attention = torch.softmax((q @ k.transpose(-1, -2)) * scale, dim=-1)  # (B, G, C/G, C/G)
            out = attention @ v  # (B, G, C/G, N)
        return out.flatten(1, 2).unflatten(-1, value.shape[2:]).to(value.dtype)

    def _fill(self, x: Tensor) -> Tensor:
        """Append the missing channels: an adaptive average pooling along the channel axis."""
        if self.missing == 0:
            return x
        count = x.shape[1]
        bins = ((i * count // self.missing, -(-(i + 1) * count // self.missing)) for i in range(self.missing))
        return torch.cat([x, *(x[:, start:stop].mean(1, keepdim=True) for start, stop in bins)], 1)
