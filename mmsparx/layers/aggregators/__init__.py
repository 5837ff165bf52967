"""Aggregators of a ganglion layer, by name in `mmsparx.registry.AGGREGATORS`.

An aggregator is an `nn.Module` made as `Aggregator(dim, out_dim, sources, reduction=...,
norm_cfg=..., **options)` and called as `aggregator(x, *sources)`: x is the ganglion layer's
normalised input, the sources are the raw outputs of the layers it reads (see
`mmsparx.models.connection`), all (B, dim, H, W); it returns (B, out_dim, H, W). The mixer sets
out_dim, the paper's 2C in SS2D.
"""

from mmsparx.layers.aggregators.concat import Concat
from mmsparx.layers.aggregators.dmca import DMCA
from mmsparx.layers.aggregators.no_attention import NoAttention
from mmsparx.layers.aggregators.sca import SCA
from mmsparx.layers.aggregators.sra import SRA

__all__ = ['DMCA', 'SCA', 'SRA', 'Concat', 'NoAttention']
