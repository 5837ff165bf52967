"""The norm over whole maps, GroupNorm with one group, as one PyTorch custom operator.

`interface` says what it computes and which cases the operator covers, `library` registers it (schema, fake,
derivatives). `backends` orders the implementations: the compiled one, `triton_backend` for GPUs (its
kernels: `triton_kernels`), and `reference`, in torch.
"""

from mmsparx.ops.map_norm.backends import available_backends
from mmsparx.ops.map_norm.interface import map_norm

__all__ = ['available_backends', 'map_norm']
