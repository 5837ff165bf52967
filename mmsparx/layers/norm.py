"""Normalisations of (B, C, H, W) maps, by name."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsparx import ops
from mmsparx.layers.recompute import pure

# The base class of BN and SyncBN, and of the class into which mmengine converts SyncBatchNorm in a single process.
BatchNorm = nn.modules.batchnorm._BatchNorm


@pure
class MapNorm(nn.GroupNorm):
    """GroupNorm that takes a float32 map, as the scan of a float16 model gives, where its parameters are in 16 bits.

    With one group it is `mmsparx.ops.map_norm`.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.num_groups == 1:
            return ops.map_norm(x, self.weight, self.bias, self.eps)
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        return F.group_norm(x, self.num_groups, self.weight.to(dtype), self.bias.to(dtype), self.eps)


def map_norm(dim: int, num_groups: int = 1, eps: float = 1e-5) -> MapNorm:
    """The norm inside every layer of the published networks.

    Args:
        dim: Number of channels.
        num_groups: Number of groups of channels; with one, it normalises over C, H and W together.
        eps: Number added to the variance.
    """
    return MapNorm(num_groups, dim, eps)


@pure
class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position; takes a float32 map where its parameters are in 16 bits.

    Args:
        dim: Number of channels.
        eps: Number added to the variance.
    """

    def __init__(self, dim: int, eps: float = 1e-5):
        super().__init__(dim, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), contiguous."""
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight.to(dtype), self.bias.to(dtype), self.eps)
        return x.permute(0, 3, 1, 2).contiguous()


NORMS: dict[str, Callable[..., nn.Module]] = {
    'BN': nn.BatchNorm2d,
    'SyncBN': nn.SyncBatchNorm,
    'GN': map_norm,
    'LN2d': ChannelLayerNorm,
}


def build_norm(dim: int, cfg: Mapping | str) -> nn.Module:
    """A norm over `dim` channels, from a config in OpenMMLab's form.

    Args:
        dim: Number of channels.
        cfg: Dict of `type`, a name of `NORMS`, `requires_grad` (True by default), and options of the norm (eps,
            momentum, ...); or the name alone.

    Raises:
        ValueError: The type is unknown; the message lists the known ones.
    """
    options = {'type': cfg} if isinstance(cfg, str) else dict(cfg)
    kind = options.pop('type', None)
    requires_grad = options.pop('requires_grad', True)
    if kind not in NORMS:
        raise ValueError(f'norm: unknown type {kind!r}; known ones: {", ".join(NORMS)}')
    norm = NORMS[kind](dim, **options)
    for parameter in norm.parameters():
        parameter.requires_grad_(requires_grad)
    return norm
