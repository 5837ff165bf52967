"""Heads for other libraries' models, registered by name without importing the library."""

from mmsparx.registry import MODELS

__all__ = []


@MODELS.register_module('SparXClsHead')
def _sparx_cls_head(**options):
    """`mmsparx.models.heads.cls_head.SparXClsHead`, which needs mmpretrain."""
    from mmsparx.models.heads.cls_head import SparXClsHead

    return SparXClsHead(**options)
