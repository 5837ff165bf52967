"""The speed of a network's depthwise convolutions, with the residual and the activation of each, against torch's.

Every case is a layer of a SparX-Mamba by its map, window and what follows, with how often the network has it; the
first table has their sums. `torch` is the convolution, the addition and the activation one after the other, `torch,
convolution alone` the first of them, and the others are backends of `mmsparx.ops.depthwise_conv2d`.

Inputs and outputs are in recycled memory here. Within a network outputs are often in fresh memory, whose pages cost a
CPU more than the convolution, and torch has three outputs where the operator has one: see `benchmarks.network_profile`.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import command_line, network
from benchmarks.map_norm import call_of
from benchmarks.report import Comparison, Report, markdown
from benchmarks.scans import DTYPES, PASSES, relative_error
from mmsparx.analysis.timing import Protocol, clock_of, interleave, peak_memory
from mmsparx.layers.basic import DepthwiseConv2d
from mmsparx.models import SparXMamba
from mmsparx.ops import depthwise_conv2d, native

Kind = tuple[int, int, int, int, bool, str]  # channels, height, width, side of the window, residual, activation
_ACTIVATIONS = {'none': lambda z: z, 'gelu': F.gelu, 'silu': F.silu}


def kinds_of(size: str, image: tuple[int, int]) -> Counter[Kind]:
    """How often a network has each kind of depthwise convolution."""
    found: Counter[Kind] = Counter()

    def note(module: DepthwiseConv2d, inputs: tuple[Tensor], _) -> None:
        found[(*inputs[0].shape[1:], module.kernel_size[0], module.residual, module.activation)] += 1

    with torch.device('meta'):
        model = SparXMamba(size).eval()
        for module in model.modules():
            if isinstance(module, DepthwiseConv2d):
                module.register_forward_hook(note)
        model(torch.empty(1, 3, *image))
    return found


def contenders(residual: bool, activation: str) -> dict[str, tuple[Callable[..., Tensor], Callable]]:
    """(function of x, weight and bias, context to run it in) by name."""

    def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[1])

    def by_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        z = convolution(x, weight, bias)
        return _ACTIVATIONS[activation](x + z if residual else z)

    ours = partial(depthwise_conv2d, residual=residual, activation=activation)
    found = {'torch': (by_torch, nullcontext), 'torch, convolution alone': (convolution, nullcontext)}
    for name in native.instruction_sets():
        found[f'native-{name}'] = (partial(ours, backend='native'), partial(native.use_instruction_set, name))
    return found | {'reference': (partial(ours, backend='reference'), nullcontext)}


def compare(
    kind: Kind, count: int, batch: int, dtype: torch.dtype, which: str, device: torch.device, protocol: Protocol
) -> Comparison:
    """Time all contenders on one kind of layer, with their errors against float64."""
    channels, height, width, side, residual, activation = kind
    normal = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    inputs = tuple(
        x.to(device, dtype)
        for x in (normal(batch, channels, height, width), normal(channels, 1, side, side) / side, normal(channels))
    )
    functions = contenders(residual, activation)

    def entered(name: str) -> Callable[[], tuple[Tensor, ...]]:
        function, context = functions[name]
        call = call_of(function, inputs, which)

        def run() -> tuple[Tensor, ...]:
            with context():
                return call()

        return run

    calls = {name: entered(name) for name in functions}
    timings = interleave(calls, protocol, clock_of(device))
    for name, timing in timings.items():
        if timing.skipped is not None:
            continue
        truth = call_of(functions[name if 'alone' in name else 'torch'][0], tuple(x.double() for x in inputs), which)
        timing.facts['relative_error'] = relative_error(calls[name](), truth())
        if (peak := peak_memory(calls[name], device)) is not None:
            timing.facts['peak_bytes'] = peak
    case = {'map': f'{channels}x{height}x{width}', 'window': side, 'residual': residual, 'activation': activation}
    rest = {'layers': count, 'batch': batch, 'type': str(dtype).removeprefix('torch.'), 'pass': which}
    return Comparison({**case, **rest}, timings)


def tables(report: Report) -> str:
    """The sums over the network's layers, then every kind of layer."""
    sums: dict[tuple, dict[str, float]] = {}
    rows = []
    for comparison in report.comparisons:
        case = comparison.case
        for name, timing in comparison.timings.items():
            if timing.skipped is not None:
                rows.append({**case, 'contender': name, 'remark': f'skipped: {timing.skipped}'})
                continue
            best = timing.minimum * 1e3
            rows.append({**case, 'contender': name, 'ms': timing.median * 1e3, 'minimum': best})
            rows[-1]['error'] = timing.facts['relative_error']
            total = sums.setdefault((case['type'], case['pass'], case['batch'], name), Counter())
            total['layers'] += case['layers']
            total['ms'] += case['layers'] * timing.median * 1e3
            total['minimum'] += case['layers'] * best
    summed = [dict(zip(('type', 'pass', 'batch', 'contender'), key, strict=True)) | row for key, row in sums.items()]
    return f'## All layers\n\n{markdown(summed)}\n\n## Layer by layer\n\n{markdown(rows)}'


def comparisons(args, protocol: Protocol) -> Iterator[Comparison]:
    """Comparisons of all cases that the options name, one after the other."""
    for dtype in args.dtypes:
        for which in args.passes:
            for kind, count in kinds_of(args.network, args.image).items():
                yield compare(kind, count, args.batch, DTYPES[dtype], which, args.device, protocol)


def main(argv: Sequence[str] | None = None) -> Path:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = command_line.parser_of(__doc__)
    add, size, positive = parser.add_argument, command_line.image_size, command_line.positive
    add('--network', choices=network.SIZES, default='tiny', help='(default: tiny)')
    add('--image', type=size, default=(224, 224), metavar='HxW', help='(default: 224)')
    add('--batch', type=positive, default=1, metavar='N', help='(default: 1)')
    add('--dtypes', nargs='+', choices=DTYPES, default=['float32'], help='(default: float32)')
    add('--passes', nargs='+', choices=PASSES, default=['forward', 'backward'], help='(default: two)')
    args = parser.parse_args(argv)
    protocol = command_line.prepare(parser, args)
    return command_line.run('depthwise_conv', args, argv, comparisons(args, protocol), tables)


if __name__ == '__main__':
    main()
