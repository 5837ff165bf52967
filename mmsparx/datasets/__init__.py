"""Transforms, registered as `mmsparx.Name`. Needs mmcv."""

from mmsparx.datasets.loading import LoadImageFromFile

__all__ = ['LoadImageFromFile']
