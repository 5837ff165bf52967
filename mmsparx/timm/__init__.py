"""The networks in timm's registry: `timm.create_model('sparx_mamba_tiny')`. Needs timm and mmengine.

SparX-Mamba (`sparx_mamba_tiny`, `_small`, `_base`), SparX-Swin (`sparx_swin_tiny`, `_base`) and VMamba (`vmamba_tiny`,
`_tiny_s1l8`, `_small`, `_base`). Importing this package registers them. It also runs timm's own scripts, which import
no plugins:

    python -m mmsparx.timm train.py /path/to/imagenet --model sparx_mamba_tiny

timm's functions that load a file into one of these models then read it by `mmsparx.weights`.
"""

from mmsparx.timm.loading import secure_timm
from mmsparx.timm.sparx_mamba import sparx_mamba_base, sparx_mamba_small, sparx_mamba_tiny
from mmsparx.timm.sparx_swin import sparx_swin_base, sparx_swin_tiny
from mmsparx.timm.vmamba import vmamba_base, vmamba_small, vmamba_tiny, vmamba_tiny_s1l8

__all__ = [
    'sparx_mamba_base',
    'sparx_mamba_small',
    'sparx_mamba_tiny',
    'sparx_swin_base',
    'sparx_swin_tiny',
    'vmamba_base',
    'vmamba_small',
    'vmamba_tiny',
    'vmamba_tiny_s1l8',
]

secure_timm()
