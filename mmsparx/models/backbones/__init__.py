"""The SparX network, and its families as size tables."""

from mmsparx.models.backbones.sparx import SparXNet
from mmsparx.models.backbones.sparx_mamba import SparXMamba
from mmsparx.models.backbones.sparx_swin import SparXSwin
from mmsparx.models.backbones.vmamba import VMamba

__all__ = ['SparXMamba', 'SparXNet', 'SparXSwin', 'VMamba']
