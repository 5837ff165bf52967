"""Transforms, registered as `mmsparx.Name`. Needs mmcv."""

import mmsparx.weights  # noqa: F401  (secures mmengine's loading of checkpoints)
from mmsparx.datasets.loading import LoadImageFromFile

__all__ = ['LoadImageFromFile']
