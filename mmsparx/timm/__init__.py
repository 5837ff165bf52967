"""SparX-Mamba in timm's registry: `timm.create_model('sparx_mamba_tiny')`. Needs timm and mmengine.

Importing this package registers the networks. It also runs timm's own scripts, which import no plugins:

    python -m mmsparx.timm train.py /path/to/imagenet --model sparx_mamba_tiny

timm's functions that load a file into one of these models then read it by `mmsparx.weights`.
"""

from mmsparx.timm.loading import secure_timm
from mmsparx.timm.sparx_mamba import sparx_mamba_base, sparx_mamba_small, sparx_mamba_tiny

__all__ = ['sparx_mamba_base', 'sparx_mamba_small', 'sparx_mamba_tiny']

secure_timm()
