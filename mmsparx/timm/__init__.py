"""SparX-Mamba in timm's registry: `timm.create_model('sparx_mamba_tiny')`. Needs timm and mmengine.

Importing this package registers the networks. It also runs timm's own scripts, which import no plugins:

    python -m mmsparx.timm train.py /path/to/imagenet --model sparx_mamba_tiny
"""

from mmsparx.timm.sparx_mamba import sparx_mamba_base, sparx_mamba_small, sparx_mamba_tiny

__all__ = ['sparx_mamba_base', 'sparx_mamba_small', 'sparx_mamba_tiny']
