"""SparX backbones and a bundled selective scan for OpenMMLab.

Importing the package costs nothing: `mmsparx.ops` needs torch alone, `mmsparx.models` adds
mmengine, and the configs add mmdet, mmsegmentation or mmpretrain.
"""

from mmsparx.version import __version__

__all__ = ['__version__']
