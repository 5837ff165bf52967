"""The selective scan's speed over the networks' sizes, against every pure-torch form in use.

One case is a stage of SparX-Mamba on images of one size; its scan has four directions, one state,
softplus, skip connection and bias. By default every contender runs on tiny at 224x224, batch 1, and the backends of
mmsparx alone on the other cases, on a GPU with mamba-ssm's kernel; the pure-torch one not on the largest.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import mamba, scans
from benchmarks.peers import PEERS
from benchmarks.report import Comparison
from benchmarks.scan_tables import Tables
from benchmarks.scans import CPU, DIRECTIONS, DTYPES, FULL, STATES, Contender, Operation
from mmsparx.ops import selective_scan, state_dtype

# Tensors of (batch, channels, positions), and of (batch, directions, states, positions), that a pass must read or
# write: u, delta and out, or their gradients and u and delta again; B and C, or these and their gradients.
MOVED = {'forward': (3, 2), 'backward': (5, 4), 'forward+backward': (8, 6)}


def _ours(u, delta, A, B, C, D, delta_bias, backend: str) -> Tensor:
    return selective_scan(u, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=True, backend=backend)


def kernels(device: torch.device) -> dict[str, Contender]:
    """mmsparx's backends for a device from `scans.variants`, and on a GPU mamba-ssm's."""
    found = {
        name: Contender(partial(_ours, backend=backend.name), within)
        for name, backend, within in scans.variants(device)
    }
    if device.type in mamba.DEVICES:
        found[mamba.NAME] = Contender(mamba.scan)
    return found


def contenders(device: torch.device) -> dict[str, Contender]:
    """All contenders on a device: the kernels, then the pure-torch forms."""
    return kernels(device) | {name: Contender(scan) for name, scan in PEERS.items()}


def default_names(
    network: str, image: tuple[int, int], batch: int, elements: int, device: torch.device = CPU
) -> list[str]:
    """The default contenders of a case."""
    if (network, image, batch) == FULL:
        return list(contenders(device))
    return scans.without_slow(kernels(device), elements)


def stage_shape(network: str, image: tuple[int, int], stage: int) -> dict[str, int]:
    """Channels of all directions, and positions, of the scan in a stage, counted from 1."""
    height, width = scans.map_of(image, stage)
    return {'channels': DIRECTIONS * 2 * scans.channels_of(network, stage), 'length': height * width}


def make_inputs(
    batch: int,
    channels: int,
    length: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    states: int = STATES,
) -> dict[str, Tensor]:
    """Inputs of a scan in a fresh network: steps of 0.001 to 0.1, A = -1, -2, ..."""
    generator = torch.Generator(device).manual_seed(0)
    normal = partial(torch.randn, generator=generator, device=device)
    exact = state_dtype(torch.empty(0, dtype=dtype))
    delta_bias = scans.fresh_delta_bias(channels, generator, exact)
    return dict(
        u=normal(batch, channels, length).to(dtype),
        delta=(0.5 * normal(batch, channels, length)).to(dtype),
        A=-torch.arange(1, states + 1, device=device, dtype=exact).repeat(channels, 1),
        B=normal(batch, DIRECTIONS, states, length).to(dtype),
        C=normal(batch, DIRECTIONS, states, length).to(dtype),
        D=torch.ones(channels, device=device, dtype=exact),
        delta_bias=delta_bias,
    )


def _inputs_of(case: dict[str, str | int], device: torch.device) -> dict[str, Tensor]:
    return make_inputs(case['batch'], case['channels'], case['length'], device, DTYPES[case['type']])


def least_bytes(case: dict[str, str | int]) -> int:
    """Bytes that a scan must read and write, if every tensor is moved once.

    States, A, D and delta_bias are left out: they are small, and not every scan has to keep states.
    """
    full, shared = MOVED[case['pass']]
    rows = full * case['channels'] + shared * DIRECTIONS * STATES
    return case['batch'] * rows * case['length'] * DTYPES[case['type']].itemsize


def _gain(comparison: Comparison) -> float | None:
    measured = comparison.measured
    first = next(iter(measured), None)
    others = [timing.median for name, timing in measured.items() if name in PEERS or name == 'reference']
    if first is None or first in PEERS or first in ('reference', mamba.NAME) or not others:
        return None
    return min(others) / measured[first].median


tables = Tables(least_bytes, _gain, 'times as fast as the fastest pure-torch form there')
SCAN = Operation('selective_scan', contenders, default_names, stage_shape, _inputs_of, tables)


def main(argv: Sequence[str] | None = None) -> Path:
    argv = sys.argv[1:] if argv is None else list(argv)
    return scans.main(SCAN, __doc__, argv, images=[(224, 224), (512, 512), (800, 1280)], batches=[1, 8])


if __name__ == '__main__':
    main()
