"""Normalisations: the configurable batch norm and a channel LayerNorm for NCHW maps."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH_NORMS = {'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm}
# What they have in common, also with what mmengine turns SyncBatchNorm into where there is one process.
BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_norm(dim: int, cfg: Mapping) -> nn.Module:
    """A batch norm over `dim` channels, from a config in OpenMMLab's form.

    Args:
        dim: number of channels.
        cfg: `dict(type='BN' | 'SyncBN', requires_grad=True, ...)`; what else it holds goes to the
            torch class (eps, momentum, ...).

    Raises:
        ValueError: another type.
    """
    options = dict(cfg)
    kind = options.pop('type', None)
    requires_grad = options.pop('requires_grad', True)
    if kind not in BATCH_NORMS:
        raise ValueError(f'norm_cfg: unknown type {kind!r}; known ones: {", ".join(BATCH_NORMS)}')
    norm = BATCH_NORMS[kind](dim, **options)
    for parameter in norm.parameters():
        parameter.requires_grad_(requires_grad)
    return norm


class MapNorm(nn.GroupNorm):
    """GroupNorm that takes a float32 map, as the scan of a float16 model gives, where its parameters are in 16 bits."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        return F.group_norm(x, self.num_groups, self.weight.to(dtype), self.bias.to(dtype), self.eps)


def map_norm(dim: int) -> nn.GroupNorm:
    """The norm inside every layer: one group, so it normalises over C, H and W together."""
    return MapNorm(1, dim)


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position of a (B, C, H, W) map."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2).contiguous()
