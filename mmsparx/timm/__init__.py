"""SparX-Mamba in timm's registry: `timm.create_model('sparx_mamba_tiny')`. Needs timm and mmengine.

Importing `mmsparx` is enough: this package is imported together with timm. timm's own scripts do not import
it, so it runs them:

    python -m mmsparx.timm train.py /path/to/imagenet --model sparx_mamba_tiny
"""

from mmsparx.timm.sparx_mamba import sparx_mamba_base, sparx_mamba_small, sparx_mamba_tiny

__all__ = ['sparx_mamba_base', 'sparx_mamba_small', 'sparx_mamba_tiny']
