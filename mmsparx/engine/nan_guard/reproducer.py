"""The data needed to investigate an iteration, as JSON."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from mmsparx.engine.common import named_tensors, samples

_PACKAGES = ('torch', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'mmsparx')


def write_reproducer(path: Path, facts: Mapping, batch: object) -> None:
    """Write facts, a description of the batch, and the versions of imported packages.

    Numbers that JSON cannot represent are written as 'nan', 'inf' and '-inf'.

    Args:
        path: File to write; its folder is created.
        facts: Nested facts; values other than numbers and containers are written as text.
        batch: Batch from a data loader. For each tensor its shape, type, range and share of finite
            values are written, for each image the meta information with path and shapes.
    """
    described = {
        'images': [sample.metainfo for sample in samples(batch)],
        'tensors': {name: _describe(x) for name, x in named_tensors(batch)},
        'versions': {
            name: getattr(sys.modules[name], '__version__', None) for name in _PACKAGES if name in sys.modules
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain({**facts, **described}), indent=1, allow_nan=False))


def _describe(x: Tensor) -> dict:
    finite = x[x.isfinite()]
    return {
        'shape': list(x.shape),
        'dtype': str(x.dtype),
        'min': finite.min().item() if finite.numel() else None,
        'max': finite.max().item() if finite.numel() else None,
        'finite': finite.numel() / max(1, x.numel()),
    }


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, type(None))) else str(value)
