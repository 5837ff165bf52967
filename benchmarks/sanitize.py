"""Small scans, of sequences and of maps, forward and backward, against the reference in float64: for compute-sanitizer.

    compute-sanitizer --tool memcheck --error-exitcode 1 python -m benchmarks.sanitize --device cuda

Set PYTORCH_NO_CUDA_MEMORY_CACHING=1 beside it: torch's own allocator hides a read beyond a tensor's end.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from benchmarks import command_line, cross_selective_scan, selective_scan
from benchmarks.scans import CPU, DIRECTIONS, DTYPES, relative_error
from mmsparx import ops
from mmsparx.ops.selective_scan.backends import check_name

CHANNELS = 3 * DIRECTIONS  # no multiple of the rows of a block
WIDE = 64, 256 * DIRECTIONS  # batch and channels, enough for the most rows that a block has
RANK = 3
TYPES = {**DTYPES, 'float64': torch.float64}
# Tolerance of an output of the type: in 16 bits about two halves of a unit in the last place, else a long row's loss.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 5e-4}
ROUNDINGS = 4  # of a map's scan in 16 bits, where delta and sums are rounded on their way


def errors(
    scan: Callable[..., Tensor], inputs: dict[str, Tensor], backend: str, device: torch.device, roundings: int = 1
) -> dict[str, float]:
    """Relative error over its tolerance, by output; values above 1 are wrong.

    Only the scan runs on `device`, so that the sanitizer only sees the kernels and does not slow down the truth.
    """
    first = next(iter(inputs.values()))
    grad = torch.randn(first.shape, generator=torch.Generator().manual_seed(1)).to(first.dtype)
    found = run(scan, backend, {name: x.to(device) for name, x in inputs.items()}, grad.to(device))
    truth = run(scan, 'reference', {name: x.double() for name, x in inputs.items()}, grad.double())
    # Values computed from rounded numbers are no better for their own type.
    allowed = roundings * TOLERANCES[first.dtype] if roundings > 1 and first.dtype.itemsize == 2 else 0
    return {
        name: relative_error([x.cpu()], [true]) / max(TOLERANCES[x.dtype], allowed)
        for name, x, true in zip(('out', *inputs), found, truth, strict=True)
    }


def run(scan: Callable[..., Tensor], backend: str, inputs: dict[str, Tensor], grad: Tensor) -> list[Tensor]:
    """The output, and the gradients of all inputs for an output gradient `grad`."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    out = scan(**leaves, delta_softplus=True, backend=backend)
    return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), grad)]


def cases(args: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    """Descriptions of the scans, and their errors."""

    def sequences(batch: int, channels: int, length: int, states: int, name: str) -> tuple[str, dict[str, float]]:
        inputs = selective_scan.make_inputs(batch, channels, length, CPU, TYPES[name], states)
        found = errors(ops.selective_scan, inputs, args.backend, args.device)
        return f'{batch} x {channels} x {length}, N {states}, {name}', found

    def maps(batch: int, channels: int, size: tuple[int, int], states: int, name: str) -> tuple[str, dict[str, float]]:
        inputs = cross_selective_scan.make_inputs(batch, channels, size, RANK, CPU, TYPES[name], states)
        found = errors(ops.cross_selective_scan, inputs, args.backend, args.device, ROUNDINGS)
        return f'maps {batch} x {channels} x {size[0]} x {size[1]}, N {states}, {name}', found

    for length, states, name in itertools.product(args.lengths, args.states, args.types):
        yield sequences(2, CHANNELS, length, states, name)
    for size, states, name in itertools.product(args.maps, args.states[:2], args.types):
        yield maps(2, CHANNELS, size, states, name)
    if args.wide:
        yield sequences(*WIDE, 49, 1, 'float32')
        yield maps(*WIDE, (7, 7), 1, 'float32')


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(':')[0], allow_abbrev=False)
    add, positive = parser.add_argument, command_line.positive
    add('--device', type=command_line.device_of, default=CPU, help='cpu, cuda or cuda:N (default: cpu)')
    add('--backend', default='native', help='backend of the scan (default: native)')
    # Lengths are parts of a tile, the networks' own at 224x224, and one more than whole tiles.
    add('--lengths', nargs='+', type=positive, default=[1, 49, 196, 784, 3137], metavar='L')
    # Lengths in shared memory: less than a tile, several tiles, and more than fit.
    sizes = [(7, 7), (14, 14), (56, 56), (65, 78)]
    add('--maps', nargs='*', type=command_line.image_size, default=sizes, metavar='HxW', help='(default: four sizes)')
    add(
        '--states',
        nargs='+',
        type=positive,
        default=[1, 5, 16],
        metavar='N',
        help='maps have the first two',
    )
    add('--wide', action='store_true', help='also test so many channels that a block of the backward has several')
    add('--types', nargs='+', choices=TYPES, default=list(TYPES), help='(default: all)')
    args = parser.parse_args(argv)
    try:
        check_name(args.backend, '--backend')
    except ValueError as error:
        parser.error(str(error))
    wrong = 0
    for case, found in cases(args):
        far = {output: error for output, error in found.items() if not error <= 1}  # NaN, too
        worst = max(found, key=found.get)
        said = ', '.join(f'{output} {error:.3g}' for output, error in far.items()) or f'{worst} {found[worst]:.2g}'
        print(f'{"WRONG" if far else "right"}: {case}: error / tolerance: {said}', flush=True)
        wrong += bool(far)
    if wrong:
        print(f'{wrong} cases are wrong', file=sys.stderr)
    return int(wrong > 0)


if __name__ == '__main__':
    sys.exit(main())
