"""Models for inference. Needs mmengine."""

from mmsparx.export.fold import fold

__all__ = ['fold']
