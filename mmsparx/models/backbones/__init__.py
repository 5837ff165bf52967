"""The SparX network, and its published families as size tables."""

from mmsparx.models.backbones.sparx import SparXNet
from mmsparx.models.backbones.sparx_mamba import SparXMamba

__all__ = ['SparXMamba', 'SparXNet']
