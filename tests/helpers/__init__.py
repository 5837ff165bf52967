"""Helpers that several test files share: measures, naive truths, small sizes, the oracle's data."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

DEVICES = ['cpu', *([pytest.param('cuda', marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]
ORACLE = Path(__file__).parents[1] / 'data' / 'oracle'

# A network of every kind of layer, in milliseconds: ganglion layers that read the input, normal
# layers and earlier ganglion layers, a window, reductions above 1, 2C no multiple of 3.
SMALL_ARCH = {
    'channels': (8, 16, 24, 32),
    'stages': [
        {'depth': 1},
        {'depth': 2, 'stride': 1, 'first': 1},
        {'depth': 3, 'stride': 2, 'window': 3},
        {'depth': 1, 'stride': 1},
    ],
}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected||, in float64; ||actual|| if the expected values are all 0."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    actual, expected = actual.detach().double(), expected.detach().double()
    return ((actual - expected).norm() / (expected.norm() if expected.any() else 1)).item()


def naive_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """The recurrence of `selective_scan`'s docstring, a position at a time; returns (out, h_L)."""
    if B.dim() == 3:
        B, C = B.unsqueeze(1), C.unsqueeze(1)
    per_group = u.shape[1] // B.shape[1]
    B, C = B.repeat_interleave(per_group, 1), C.repeat_interleave(per_group, 1)  # (b, dim, N, L)
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    step = torch.logaddexp(delta, torch.zeros_like(delta)) if delta_softplus else delta
    h = torch.zeros_like(u[:, :, :1] * A)
    outs = []
    for u_t, step_t, B_t, C_t in zip(u.unbind(-1), step.unbind(-1), B.unbind(-1), C.unbind(-1), strict=True):
        h = torch.exp(step_t[..., None] * A) * h + step_t[..., None] * B_t * u_t[..., None]
        out = (C_t * h).sum(-1)
        outs.append(out if D is None else out + D * u_t)
    out = torch.stack(outs, -1)
    if z is not None:
        out = out * z * torch.sigmoid(z)
    return out, h


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every parameter and running statistic with values that differ from any initial one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in module.state_dict().items():
            if not x.is_floating_point():
                continue
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            leaf = name.rpartition('.')[2]
            if leaf == 'running_var':
                value = 1 + 0.3 * noise.abs()
            elif leaf == 'dt_proj_bias':
                value = -2 + noise
            elif x.dim() == 1:
                value = (leaf != 'bias') + 0.3 * noise
            else:
                value = noise / max(1, x[0].numel()) ** 0.5
            x.copy_(value)
    return module


class Watch(TorchDispatchMode):
    """A mode in which `types` records the types of inputs and outputs per operator, call by call."""

    def __init__(self):
        super().__init__()
        self.types: dict[str, list[torch.dtype]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        results = out if isinstance(out, (tuple, list)) else (out,)
        self.types.setdefault(str(func), []).extend(x.dtype for x in (*args, *results) if torch.is_tensor(x))
        return out

    @property
    def floating(self) -> set[torch.dtype]:
        """The floating-point types that occurred."""
        return {dtype for dtypes in self.types.values() for dtype in dtypes if dtype.is_floating_point}


def oracle_shapes(name: str, family: str = '') -> dict[str, list[int]]:
    """Published parameter names and shapes, e.g. of 't' or 't_detection_extra', or of VMamba with family='vmamba_'."""
    return json.loads((ORACLE / f'{family}parameters_{name}.json').read_text())


def oracle_weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The float64 weights behind the oracle's outputs, by published name."""
    return {name: torch.from_numpy(x) for name, x in _weights_module().fill(shapes).items()}


def oracle_image(batch: int, height: int, width: int) -> Tensor:
    return torch.from_numpy(_weights_module().image(batch, height, width))


def oracle_outputs(name: str) -> dict[str, np.ndarray]:
    with np.load(ORACLE / f'{name}.npz') as data:
        return dict(data)


def _weights_module():
    spec = importlib.util.spec_from_file_location('oracle_weights', ORACLE / 'weights.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
