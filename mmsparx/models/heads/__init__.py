"""Heads for other libraries' models; each library is imported when its head is asked for, and not before."""

from mmsparx.registry import MODELS

__all__ = ['SparXClsHead']


def __getattr__(name: str) -> type:
    if name != 'SparXClsHead':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from mmsparx.models.heads.cls_head import SparXClsHead

    return SparXClsHead


@MODELS.register_module('SparXClsHead')
def _sparx_cls_head(**options):
    """`SparXClsHead`, which needs mmpretrain."""
    return __getattr__('SparXClsHead')(**options)
