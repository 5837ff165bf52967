"""Token mixers, by name in `mmsparx.registry.TOKEN_MIXERS`.

A mixer is an `nn.Module` made as `Mixer(dim, aggregator, **options)`: `aggregator` is None in a
normal layer and a callable `(dim, out_dim) -> nn.Module` in a ganglion layer, where the module it
makes takes the place of the mixer's input projection. It is called as `mixer(x, *sources)` on
(B, C, H, W) maps, sources being given in ganglion layers alone.
"""

from mmsparx.layers.mixers.ss2d import SS2D

__all__ = ['SS2D']
