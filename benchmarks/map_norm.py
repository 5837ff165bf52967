"""The speed of a norm over a whole map, GroupNorm with one group, against other ways to compute it.

torch's kernel takes one block for each sample and group on a GPU: two blocks for the two images of a detector. Under
autocast it runs in float32. The contenders are that kernel, with and without autocast's conversions, and statistics by
`torch.var_mean`, which are spread over the GPU, with a fused multiply-add, and `mmsparx.ops.map_norm`, which on GPUs is
torch's.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import group_norm

from benchmarks import command_line
from benchmarks.report import Comparison, Report, markdown
from benchmarks.scans import DTYPES, PASSES, relative_error
from mmsparx import ops
from mmsparx.analysis.timing import Copying, Protocol, clock_of, interleave, peak_memory

EPS = 1e-5
COPY = 'copy'
# Maps that a pass must read and write, if every one is moved once: x and out; grad, x and its gradient.
MOVED = {'forward': 2, 'backward': 3, 'forward+backward': 5}


def _by_group_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return group_norm(x, 1, weight, bias, EPS)


def _as_under_autocast(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return group_norm(x.float(), 1, weight.float(), bias.float(), EPS).to(x.dtype)


def _by_var_mean(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    var, mean = torch.var_mean(x, (1, 2, 3), correction=0, keepdim=True)
    scale = weight.view(1, -1, 1, 1) * torch.rsqrt(var + EPS)
    return torch.addcmul(bias.view(1, -1, 1, 1) - mean * scale, x, scale)


CONTENDERS = {
    'group_norm': _by_group_norm,
    'group_norm, float32': _as_under_autocast,
    'var_mean': _by_var_mean,
    'mmsparx': ops.map_norm,
}


def make_inputs(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, C, H, W), weight (C,) and bias (C,)."""
    generator = torch.Generator(device).manual_seed(0)
    normal = partial(torch.randn, generator=generator, device=device)
    return normal(shape).to(dtype), 1 + 0.1 * normal(shape[1]).to(dtype), 0.1 * normal(shape[1]).to(dtype)


def call_of(norm: Callable[..., Tensor], inputs: tuple[Tensor, ...], which: str) -> Callable[[], tuple[Tensor, ...]]:
    """A call that returns the output, or the gradients of the inputs for it; `which`: one of PASSES."""
    if which == 'forward':

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (norm(*inputs),)

        return forward
    leaves = [x.detach().requires_grad_() for x in inputs]
    kept: list[Tensor] = []

    def backward() -> tuple[Tensor, ...]:
        out = kept[0] if kept else norm(*leaves)
        if which == 'backward' and not kept:
            kept.append(out)
        return torch.autograd.grad(out, leaves, out.detach(), retain_graph=bool(kept))

    return backward


def compare(
    shape: Sequence[int], dtype: torch.dtype, which: str, device: torch.device, protocol: Protocol
) -> Comparison:
    """Time all contenders on a map, with their errors against float64."""
    inputs = make_inputs(shape, device, dtype)
    calls = {name: call_of(norm, inputs, which) for name, norm in CONTENDERS.items()}
    copying = Copying(device) if device.type == 'cuda' else None
    timings = interleave(calls if copying is None else {**calls, COPY: copying}, protocol, clock_of(device))
    copy = timings.pop(COPY, None)
    if copy is not None:
        copy.facts['bytes'] = copying.bytes
    truth = None
    for name, timing in timings.items():
        if timing.skipped is not None:
            continue
        if truth is None:
            truth = call_of(_by_group_norm, tuple(x.double() for x in inputs), which)()
        timing.facts['relative_error'] = relative_error(calls[name](), truth)
        if (peak := peak_memory(calls[name], device)) is not None:
            timing.facts['peak_bytes'] = peak
    case = {'shape': 'x'.join(map(str, shape)), 'type': str(dtype).removeprefix('torch.'), 'pass': which}
    return Comparison({**case, 'bytes': MOVED[which] * inputs[0].nbytes}, timings, copy)


def tables(report: Report) -> str:
    """A row for every contender of every case."""
    return markdown([row for comparison in report.comparisons for row in _rows(comparison)])


def _rows(comparison: Comparison) -> Iterator[dict]:
    case = comparison.case
    for name, timing in comparison.timings.items():
        row = {key: case[key] for key in ('shape', 'type', 'pass')} | {'contender': name}
        if timing.skipped is not None:
            yield {**row, 'remark': f'skipped: {timing.skipped}'}
            continue
        speed = case['bytes'] / timing.median
        row |= {'ms': timing.median * 1e3, 'IQR': timing.iqr * 1e3, 'GB/s': speed / 1e9}
        if comparison.copy is not None and comparison.copy.skipped is None:
            row['% of copy'] = 100 * speed / (comparison.copy.facts['bytes'] / comparison.copy.median)
        row['error'] = timing.facts['relative_error']
        if 'peak_bytes' in timing.facts:
            row['peak (GiB)'] = timing.facts['peak_bytes'] / 2**30
        yield row


def _shape(text: str) -> tuple[int, ...]:
    sides = text.split('x')
    if len(sides) != 4 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(
            f'expected a shape as 2x96x200x320 (batch, channels, height, width), got {text!r}'
        )
    return tuple(map(int, sides))


def main(argv: Sequence[str] | None = None) -> Path:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = command_line.parser_of(__doc__)
    # A detector's first stage: two images of 800x1280. A classifier's: 128 images of 224x224.
    shapes = [(2, 96, 200, 320), (128, 96, 56, 56)]
    parser.add_argument('--shapes', nargs='+', type=_shape, default=shapes, metavar='BxCxHxW', help='(default: two)')
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES, default=['bfloat16', 'float32'], help='(default: two)')
    parser.add_argument('--passes', nargs='+', choices=PASSES, default=['forward', 'backward'], help='(default: two)')
    args = parser.parse_args(argv)
    protocol = command_line.prepare(parser, args)
    made = (
        compare(shape, DTYPES[dtype], which, args.device, protocol)
        for shape in args.shapes
        for dtype in args.dtypes
        for which in args.passes
    )
    return command_line.run('map_norm', args, argv, made, tables)


if __name__ == '__main__':
    main()
