"""The speed of SS2D's scan of a map along four directions over the networks' sizes, as the networks call it.

One case is a stage of SparX-Mamba on images of one size; its scan has one state, softplus, skip connection and bias,
and its steps come from ceil(C / 16) numbers for every direction and position. 'NAME-plain' is the scan of a map made of
that backend's plain scan with the reordering and the products around it, as a backend computes it that has no kernels
of its own for maps. By default every contender runs on tiny at 224x224, batch 1; on the other cases the best
instruction set alone, and the pure-torch backend not on the largest.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import mamba, scans
from benchmarks.report import Comparison
from benchmarks.scan_tables import PLAIN, Tables
from benchmarks.scans import CPU, DIRECTIONS, DTYPES, FULL, STATES, Contender, Operation
from mmsparx.ops import cross_selective_scan, state_dtype
from mmsparx.ops.selective_scan import backends

# Tensors of (batch, D, positions), and of the size of step, B and C together, that a pass must read or write: x and
# out, or out's gradient, x and its own; step, B and C, or these and their gradients.
MOVED = {'forward': (2, 1), 'backward': (3, 2), 'forward+backward': (5, 3)}


def _ours(x, step, weight, A, B, C, D, delta_bias, backend: str) -> Tensor:
    return cross_selective_scan(
        x, step, weight, A, B, C, D, delta_bias=delta_bias, delta_softplus=True, backend=backend
    )


def contenders(device: torch.device) -> dict[str, Contender]:
    """mmsparx's backends for a device, those with kernels for maps also by their plain scan; on a GPU mamba-ssm's."""
    found = {}
    for name, backend, within in scans.variants(device):
        found[name] = Contender(partial(_ours, backend=backend.name), within)
        if backend.cross_forward is not None:
            found[name + PLAIN] = Contender(partial(_ours, backend=backend.name + PLAIN), within)
    if device.type in mamba.DEVICES:
        found[mamba.NAME + PLAIN] = Contender(partial(_ours, backend=mamba.NAME + PLAIN))
    return found


@contextmanager
def plain_backends() -> Iterator[None]:
    """Provide backends such as 'native-plain', with kernels for one sequence and none for maps."""
    without_maps = dict(cross_forward=None, cross_backward=None)
    added = [
        replace(backend, name=backend.name + PLAIN, **without_maps) for backend in (*backends.BACKENDS, mamba.backend())
    ]
    backends.BACKENDS.extend(added)
    try:
        yield
    finally:
        for backend in added:
            backends.BACKENDS.remove(backend)


def default_names(
    network: str, image: tuple[int, int], batch: int, elements: int, device: torch.device = CPU
) -> list[str]:
    """The default contenders of a case."""
    known = list(contenders(device))
    return known if (network, image, batch) == FULL else scans.without_slow(known, elements)


def stage_shape(network: str, image: tuple[int, int], stage: int) -> dict[str, str | int]:
    """Channels of all directions, positions, map and step rank of the scan in a stage, counted from 1."""
    channels, (height, width) = scans.channels_of(network, stage), scans.map_of(image, stage)
    return {
        'channels': DIRECTIONS * 2 * channels,
        'length': height * width,
        'map': f'{height}x{width}',
        'rank': math.ceil(channels / 16),
    }


def make_inputs(
    batch: int,
    channels: int,
    size: tuple[int, int],
    rank: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    states: int = STATES,
) -> dict[str, Tensor]:
    """Inputs like those of a fresh network; `channels` is 4 D, `size` that of the map.

    As in a network, step, B and C are parts of one tensor, so that their maps are not adjacent in memory. Delta's
    distribution is that of the plain scan's benchmark.
    """
    generator = torch.Generator(device).manual_seed(0)
    normal = partial(torch.randn, generator=generator, device=device)
    exact = state_dtype(torch.empty(0, dtype=dtype))
    delta_bias = scans.fresh_delta_bias(channels, generator, exact)
    weight = (2 * torch.rand(channels, rank, generator=generator, device=device) - 1) * rank**-0.5
    parts = normal(batch, DIRECTIONS, rank + 2 * states, size[0] * size[1])
    parts[:, :, :rank] *= 0.75**0.5
    step, B, C = parts.to(dtype).split([rank, states, states], dim=2)
    return dict(
        x=normal(batch, channels // DIRECTIONS, *size).to(dtype),
        step=step,
        weight=weight.to(dtype),
        A=-torch.arange(1, states + 1, device=device, dtype=exact).repeat(channels, 1),
        B=B,
        C=C,
        D=torch.ones(channels, device=device, dtype=exact),
        delta_bias=delta_bias,
    )


def _inputs_of(case: dict[str, str | int], device: torch.device) -> dict[str, Tensor]:
    height, width = map(int, case['map'].split('x'))
    dtype = DTYPES[case['type']]
    return make_inputs(case['batch'], case['channels'], (height, width), case['rank'], device, dtype)


def least_bytes(case: dict[str, str | int]) -> int:
    """Bytes that the scan of a map must read and write, if every tensor is moved once.

    States, weight, A, D and delta_bias are left out: they do not grow with the map and the batch, or need not be kept.
    """
    maps, projected = MOVED[case['pass']]
    rows = maps * case['channels'] // DIRECTIONS + projected * DIRECTIONS * (case['rank'] + 2 * STATES)
    return case['batch'] * rows * case['length'] * DTYPES[case['type']].itemsize


def _gain(comparison: Comparison) -> float | None:
    measured = comparison.measured
    first = next(iter(measured), None)
    plain = None if first is None else measured.get(first + PLAIN)
    return None if plain is None else plain.median / measured[first].median


tables = Tables(least_bytes, _gain, 'times as fast as by its plain scan')
CROSS_SCAN = Operation(
    'cross_selective_scan', contenders, default_names, stage_shape, _inputs_of, tables, plain_backends
)


def main(argv: Sequence[str] | None = None) -> Path:
    argv = sys.argv[1:] if argv is None else list(argv)
    return scans.main(CROSS_SCAN, __doc__, argv, images=[(224, 224)], batches=[1, 8, 128])


if __name__ == '__main__':
    main()
