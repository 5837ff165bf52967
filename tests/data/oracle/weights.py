"""Deterministic parameters and inputs behind the reference outputs in this folder.

`fill(shapes)` returns the float64 tensors that were loaded into the
released SparX-Mamba model before its outputs were recorded, keyed by the
released checkpoints' parameter names (see parameters_*.json).  Only
`numpy.random.RandomState` is used, whose streams never change between releases.
"""

import math
import zlib

import numpy as np

DETECTION_SCALE = (((800 * 1333) / 16) / 64) ** -0.5


def fill(shapes):
    """shapes: {parameter name: list of ints} -> {parameter name: float64 ndarray}."""
    weights = {}
    for name, shape in shapes.items():
        leaf = name.rsplit('.', 1)[-1]
        if leaf == 'num_batches_tracked':
            weights[name] = np.zeros((), dtype=np.int64)
            continue
        noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
        if leaf == 'running_var':
            value = 1 + 0.1 * np.abs(noise)
        elif leaf == 'running_mean':
            value = 0.1 * noise
        elif leaf == 'A_logs':
            value = 0.5 * noise
        elif leaf == 'Ds':
            value = 1 + 0.1 * noise
        elif leaf == 'dt_projs_bias':
            value = -4 + 0.5 * noise
        elif leaf == 'scale':
            value = DETECTION_SCALE * (1 + 0.1 * noise)
        elif 'layerscale' in name and leaf == 'weight':
            value = 1 + 0.1 * noise
        elif leaf == 'bias':
            value = 0.1 * noise
        elif len(shape) == 1:
            value = 1 + 0.1 * noise
        elif leaf == 'dt_projs_weight':
            value = noise / math.sqrt(shape[-1])
        else:
            value = noise / math.sqrt(np.prod(shape[1:]))
        weights[name] = np.ascontiguousarray(value).reshape(tuple(shape))
    return weights


def image(batch, height, width, seed=0):
    """Input of the recorded runs: float64, (batch, 3, height, width), standard normal."""
    return np.random.RandomState(seed).standard_normal((batch, 3, height, width))
