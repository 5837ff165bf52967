"""Token mixers, by name in `mmsparx.registry.TOKEN_MIXERS`.

A mixer is an `nn.Module` made as `Mixer(dim, aggregator, index=..., **options)`: `aggregator` is None in a normal
layer and a callable `(dim, out_dim) -> nn.Module` in a ganglion layer; where the module that it makes stands, in place
of the mixer's input projection or in front of it, is the mixer's. `index` is the layer's index in its stage. A mixer
is called as `mixer(x, *sources)` on (B, C, H, W) maps, sources being given in ganglion layers alone.
"""

from mmsparx.layers.mixers.bi_ssm import BiSSM
from mmsparx.layers.mixers.ss2d import SS2D
from mmsparx.layers.mixers.ssm import SSM
from mmsparx.layers.mixers.window_attention import WindowAttention

__all__ = ['SS2D', 'SSM', 'BiSSM', 'WindowAttention']
