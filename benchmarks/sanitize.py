"""Small scans, forward and backward, against the reference in float64: for compute-sanitizer to watch.

    compute-sanitizer --tool memcheck --error-exitcode 1 python -m benchmarks.sanitize --device cuda

Set PYTORCH_NO_CUDA_MEMORY_CACHING=1 beside it: torch's own allocator hides a read beyond a tensor's end.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks import command_line
from benchmarks.selective_scan import CPU, DIRECTIONS, DTYPES, make_inputs, relative_error
from mmsparx.ops import selective_scan
from mmsparx.ops.selective_scan.backends import check_name

CHANNELS = 3 * DIRECTIONS  # no multiple of the rows of a block
TYPES = {**DTYPES, 'float64': torch.float64}
# Of an output of the type: in 16 bits about two halves of a unit in the last place, else what a long row loses.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def errors(backend: str, device: torch.device, length: int, states: int, dtype: torch.dtype) -> dict[str, float]:
    """Relative error over its tolerance, by output: what is above 1 is wrong.

    Only the scan runs on `device`: what the sanitizer sees is the kernels, and the truth is not slowed down.
    """
    inputs = make_inputs(2, CHANNELS, length, CPU, dtype, states)
    grad = torch.randn(inputs['u'].shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = run(backend, {name: x.to(device) for name, x in inputs.items()}, grad.to(device))
    truth = run('reference', {name: x.double() for name, x in inputs.items()}, grad.double())
    return {
        name: relative_error([x.cpu()], [true]) / TOLERANCES[x.dtype]
        for name, x, true in zip(('out', *inputs), found, truth, strict=True)
    }


def run(backend: str, inputs: dict[str, Tensor], grad: Tensor) -> list[Tensor]:
    """The output, and the gradients of all inputs for `grad` as that of the output."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    out = selective_scan(**leaves, delta_softplus=True, backend=backend)
    return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), grad)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(':')[0], allow_abbrev=False)
    add, positive = parser.add_argument, command_line.positive
    add('--device', type=command_line.device_of, default=CPU, help='cpu, cuda or cuda:N (default: cpu)')
    add('--backend', default='native', help='of the scan (default: native)')
    # Parts of a tile, the networks' own at 224x224, and one more than a whole number of tiles.
    add('--lengths', nargs='+', type=positive, default=[1, 49, 196, 784, 3137], metavar='L')
    add('--states', nargs='+', type=positive, default=[1, 5, 16], metavar='N')
    add('--types', nargs='+', choices=TYPES, default=list(TYPES), help='(default: all)')
    args = parser.parse_args(argv)
    try:
        check_name(args.backend, '--backend')
    except ValueError as error:
        parser.error(str(error))
    wrong = 0
    for length, states, name in itertools.product(args.lengths, args.states, args.types):
        found = errors(args.backend, args.device, length, states, TYPES[name])
        far = {output: error for output, error in found.items() if not error <= 1}  # NaN, too
        worst = max(found, key=found.get)
        said = ', '.join(f'{output} {error:.3g}' for output, error in far.items()) or f'{worst} {found[worst]:.2g}'
        print(f'{"WRONG" if far else "right"}: L {length}, N {states}, {name}: error / tolerance: {said}', flush=True)
        wrong += bool(far)
    if wrong:
        print(f'{wrong} cases are wrong', file=sys.stderr)
    return int(wrong > 0)


if __name__ == '__main__':
    sys.exit(main())
