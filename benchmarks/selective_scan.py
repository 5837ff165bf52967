"""The selective scan's speed over the networks' sizes, against every pure-torch form in use.

One case is a stage of SparX-Mamba on pictures of one size; its scan has four directions, one state,
softplus, skip connection and bias. By default every contender runs on tiny at 224x224, batch 1, and the backends of
mmsparx alone on the other cases, on a GPU with mamba-ssm's kernel; the pure-torch one not on the largest.
"""

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import command_line, mamba
from benchmarks.peers import PEERS
from benchmarks.report import Comparison, Report, markdown, short
from benchmarks.timing import (
    CANNOT_RUN,
    Copying,
    Protocol,
    Timing,
    as_graph,
    clock_of,
    free_memory,
    interleave,
    peak_memory,
)
from mmsparx.models.backbones import SparXMamba
from mmsparx.ops import selective_scan, state_dtype
from mmsparx.ops.selective_scan import native
from mmsparx.ops.selective_scan.backends import BACKENDS

CPU = torch.device('cpu')
DIRECTIONS = 4
STATES = 1
PASSES = ('forward', 'backward', 'forward+backward')
USUAL_PASSES = ('forward', 'forward+backward')
# Tensors of (batch, channels, positions), and of (batch, directions, states, positions), that a pass must read or
# write: u, delta and out, or their gradients and u and delta again; B and C, or these and their gradients.
MOVED = {'forward': (3, 2), 'backward': (5, 4), 'forward+backward': (8, 6)}
COPY = 'copy'
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
FULL = ('tiny', (224, 224), 1)  # the network, picture and batch on which all contenders run
# Elements of one tensor (batch, channels, positions).
CHECKED_UP_TO = 10_000_000  # beyond, the float64 truth takes longer than the measurement
REFERENCE_UP_TO = 50_000_000
BYTES_PER_ELEMENT = 8 * 4  # u, delta, the output, their gradients, and a reserve, in float32


@dataclass(frozen=True)
class Contender:
    """An implementation to time.

    Attributes:
        scan: (u, delta, A, B, C, D, delta_bias) -> out.
        within: the context that forward and backward run in.
    """

    scan: Callable[..., Tensor]
    within: Callable[[], AbstractContextManager] = nullcontext


def _ours(u, delta, A, B, C, D, delta_bias, backend: str) -> Tensor:
    return selective_scan(u, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=True, backend=backend)


def kernels(device: torch.device) -> dict[str, Contender]:
    """mmsparx's backends for a device, best first, and for a GPU mamba-ssm's.

    On a CPU the native one comes once for every instruction set that can run here.
    """
    found = {}
    for backend in BACKENDS:
        if backend.devices is not None and device.type not in backend.devices:
            continue
        scan = partial(_ours, backend=backend.name)
        if backend.name == 'native' and device.type == 'cpu' and backend.missing() is None:
            for instructions in native.instruction_sets():
                found[f'native-{instructions}'] = Contender(scan, partial(native.use_instruction_set, instructions))
        else:
            found[backend.name] = Contender(scan)
    if device.type in mamba.DEVICES:
        found[mamba.NAME] = Contender(mamba.scan)
    return found


def contenders(device: torch.device) -> dict[str, Contender]:
    """All that can be compared on a device: the kernels, then the pure-torch forms."""
    return kernels(device) | {name: Contender(scan) for name, scan in PEERS.items()}


def default_names(
    network: str, image: tuple[int, int], batch: int, elements: int, device: torch.device = CPU
) -> list[str]:
    """The contenders of a case where none are asked for."""
    if (network, image, batch) == FULL:
        return list(contenders(device))
    names = list(kernels(device))
    slower = [name for name in names if name.startswith('native-')][1:]
    if elements > REFERENCE_UP_TO:
        slower.append('reference')
    return [name for name in names if name not in slower]


def stage_shape(network: str, image: tuple[int, int], stage: int) -> tuple[int, int]:
    """(channels of all directions, positions) of the scan in a stage, counted from 1."""
    inner = 2 * SparXMamba.ARCHITECTURES[network].channels[stage - 1]
    stride = 4 * 2 ** (stage - 1)
    return DIRECTIONS * inner, -(-image[0] // stride) * -(-image[1] // stride)


def make_inputs(
    batch: int,
    channels: int,
    length: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    states: int = STATES,
) -> dict[str, Tensor]:
    """Inputs of a scan as a fresh network has them: steps of 0.001 to 0.1, A = -1, -2, ..."""
    generator = torch.Generator(device).manual_seed(0)
    normal = partial(torch.randn, generator=generator, device=device)
    exact = state_dtype(torch.empty(0, dtype=dtype))
    step = 10 ** (-3 + 2 * torch.rand(channels, generator=generator, device=device, dtype=exact))
    return dict(
        u=normal(batch, channels, length).to(dtype),
        delta=(0.5 * normal(batch, channels, length)).to(dtype),
        A=-torch.arange(1, states + 1, device=device, dtype=exact).repeat(channels, 1),
        B=normal(batch, DIRECTIONS, states, length).to(dtype),
        C=normal(batch, DIRECTIONS, states, length).to(dtype),
        D=torch.ones(channels, device=device, dtype=exact),
        delta_bias=step + torch.log(-torch.expm1(-step)),  # the inverse of softplus
    )


def call_of(contender: Contender, inputs: dict[str, Tensor], which: str) -> Callable[[], tuple[Tensor, ...]]:
    """A call that returns the output, or all gradients of the sum of its squares over two; `which`: of `PASSES`.

    Where that is the backward alone, its first call makes the forward, too.
    """
    if which == 'forward':

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad(), contender.within():
                return (contender.scan(**inputs),)

        return forward
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    kept: list[Tensor] = []

    def backward() -> tuple[Tensor, ...]:
        with contender.within():
            out = kept[0] if kept else contender.scan(**leaves)
            if which == 'backward' and not kept:
                kept.append(out)
            # Some forms do not read A where there is one position.
            return torch.autograd.grad(
                out, list(leaves.values()), out.detach(), retain_graph=bool(kept), materialize_grads=True
            )

    return backward


def relative_error(outputs: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """The largest ||x - truth|| / ||truth|| among the tensors; ||x|| where the truth is 0."""
    pairs = zip(outputs, truth, strict=True)
    return max((x.double() - true).norm().item() / (true.norm().item() or 1) for x, true in pairs)


def compare(
    names: Sequence[str],
    inputs: dict[str, Tensor],
    which: str,
    protocol: Protocol,
    case: dict[str, str | int] | None = None,
    copying: Copying | None = None,
    graphs: bool = False,
) -> Comparison:
    """Time contenders on the same inputs, with their errors against float64 (unless the inputs are large).

    Args:
        names: of `contenders()`.
        inputs: as of `make_inputs`.
        which: of `PASSES`.
        protocol: how long.
        case: what to call it.
        copying: takes turns with the contenders where it is given: the measure of a GPU's memory.
        graphs: whether to time CUDA graphs of the calls.
    """
    device = inputs['u'].device
    known = contenders(device)
    calls = {name: call_of(known[name], inputs, which) for name in names}
    truth = None
    if inputs['u'].numel() <= CHECKED_UP_TO:
        truth = call_of(known['reference'], {name: x.double() for name, x in inputs.items()}, which)()
    facts: dict[str, dict] = {name: {} for name in names}
    for name, call in calls.items():
        with suppress(*CANNOT_RUN):  # `interleave` says why
            if truth is not None:
                facts[name]['relative_error'] = relative_error(call(), truth)
    del truth
    timed = dict(calls)
    if graphs:  # of calls of their own: a backward runs on the stream of its forward, which must be the captured one
        timed = {name: _Graph(call_of(known[name], inputs, which), device) for name in names}
    if copying is not None:
        timed[COPY] = copying
    timings = interleave(timed, protocol, clock_of(device))
    copy = timings.pop(COPY, None)
    if copy is not None:
        copy.facts['bytes'] = copying.bytes
    for name, timing in timings.items():
        timing.facts = facts[name]
        if timing.skipped is None and device.type == 'cuda':
            calls[name]()  # its graph may have been timed, and not itself been called before
            timing.facts['peak_bytes'] = peak_memory(calls[name], device)
    return Comparison(case or {}, timings, copy)


class _Graph:
    """A call that is captured when it is first made, where `interleave` sees it fail."""

    def __init__(self, call: Callable[[], object], device: torch.device):
        self.call, self.device, self.replay = call, device, None

    def __call__(self) -> object:
        if self.replay is None:
            self.replay = as_graph(self.call, self.device)
        return self.replay()


def comparisons(args, protocol: Protocol) -> Iterator[Comparison]:
    """Every case that the options name, as it is measured."""
    copying = Copying(args.device) if args.device.type == 'cuda' else None
    for network in args.networks:
        for image in args.images:
            for batch in args.batches:
                for stage in args.stages:
                    channels, length = stage_shape(network, image, stage)
                    elements = batch * channels * length
                    names = args.contenders or default_names(network, image, batch, elements, args.device)
                    case = {'network': network, 'image': 'x'.join(map(str, image)), 'batch': batch, 'stage': stage}
                    case |= {'channels': channels, 'length': length, 'type': args.dtype}
                    needed, free = BYTES_PER_ELEMENT * elements, free_memory(args.device)
                    if needed > free:
                        lack = f'takes about {needed / 2**30:.0f} GiB of memory, {free / 2**30:.0f} are free'
                        for which in args.passes:
                            skipped = {name: Timing(skipped=lack) for name in names}
                            yield Comparison({**case, 'pass': which}, skipped)
                        continue
                    inputs = make_inputs(batch, channels, length, args.device, DTYPES[args.dtype])
                    for which in args.passes:
                        named = {**case, 'pass': which}
                        yield compare(names, inputs, which, protocol, named, copying, args.cuda_graphs)
                    del inputs


def _nanoseconds(comparison: Comparison) -> float:
    """Per second of a call: nanoseconds per element, an element being one of (batch, channels, length)."""
    case = comparison.case
    return 1e9 / (case['batch'] * case['channels'] * case['length'])


def least_bytes(case: dict[str, str | int]) -> int:
    """Bytes that a scan must read and write, if every tensor is moved once.

    States, A, D and delta_bias are left out: they are small, and not every scan has to keep states.
    """
    full, shared = MOVED[case['pass']]
    rows = full * case['channels'] + shared * DIRECTIONS * STATES
    return case['batch'] * rows * case['length'] * DTYPES[case['type']].itemsize


def copy_speed(comparison: Comparison) -> float | None:
    """Bytes per second, read and written ones together; None where no copy was timed."""
    copy = comparison.copy
    return None if copy is None or copy.skipped is not None else copy.facts['bytes'] / copy.median


def _pure_torch(comparison: Comparison) -> list[float]:
    return [timing.median for name, timing in comparison.measured.items() if name in PEERS or name == 'reference']


def tables(report: Report) -> str:
    """All contenders of a case against the first, where there are many; then the first over all cases."""
    parts = [
        'An element is one of (batch, channels, positions). Errors are those of the output, or the worst of all '
        'gradients, against float64.'
    ]
    if speeds := [speed / 1e9 for comparison in report.comparisons if (speed := copy_speed(comparison)) is not None]:
        parts.append(
            f'A copy moved {short(statistics.median(speeds))} GB/s, bytes read and written together: the median of the '
            f'comparisons, which were between {short(min(speeds))} and {short(max(speeds))}; "% of copy" is that of '
            'the comparison itself.'
        )
    for which in PASSES:
        chosen = [comparison for comparison in report.comparisons if comparison.case['pass'] == which]
        full = [comparison for comparison in chosen if len(comparison.measured) > 2 or comparison.copy]
        for place in dict.fromkeys(map(_place, full)):
            rows = [row for comparison in full if _place(comparison) == place for row in _details(comparison)]
            parts += ['## All contenders, {}: {}, {}, batch {}'.format(which, *place), markdown(rows)]
        for title, value in (
            ('ns per element', _best),
            ('% of the speed of a copy', _share),
            ('times as fast as the fastest pure-torch form there', _gain),
        ):
            if rows := _over_stages(chosen, value):
                parts += [f'## Best backend, {which}: {title}', markdown(rows)]
    parts += [
        f'Not measured: {", ".join(f"{key} {value}" for key, value in comparison.case.items())}: '
        + '; '.join(dict.fromkeys(str(timing.skipped) for timing in comparison.timings.values()))
        for comparison in report.comparisons
        if not comparison.measured
    ]
    return '\n\n'.join(parts)


def _place(comparison: Comparison) -> tuple:
    return tuple(comparison.case[name] for name in ('network', 'image', 'batch'))


def _details(comparison: Comparison) -> Iterator[dict]:
    case, scale = comparison.case, _nanoseconds(comparison)
    first = next(iter(comparison.measured), None)
    for name, timing in comparison.timings.items():
        row = {'stage': case['stage'], 'contender': name}
        if timing.skipped is not None:
            yield {**row, 'remark': f'skipped: {timing.skipped}'}
            continue
        row |= {
            'ns/element': timing.median * scale,
            'minimum': timing.minimum * scale,
            'IQR': timing.iqr * scale,
            'samples': len(timing.seconds),
            f'time / {first}': timing.median / comparison.timings[first].median,
            'error': timing.facts.get('relative_error'),
        }
        if comparison.copy is not None:
            row['GB/s'] = least_bytes(case) / timing.median / 1e9
            row['% of copy'] = _percent_of_copy(comparison, timing)
        if 'peak_bytes' in timing.facts:
            row['peak (GiB)'] = timing.facts['peak_bytes'] / 2**30
        yield row


def _percent_of_copy(comparison: Comparison, timing: Timing) -> float | None:
    speed = copy_speed(comparison)
    return None if speed is None else 100 * least_bytes(comparison.case) / timing.median / speed


def _best(comparison: Comparison) -> float | None:
    first = next(iter(comparison.measured.values()), None)
    return None if first is None else first.median * _nanoseconds(comparison)


def _share(comparison: Comparison) -> float | None:
    first = next(iter(comparison.measured.values()), None)
    return None if first is None else _percent_of_copy(comparison, first)


def _gain(comparison: Comparison) -> float | None:
    first, others = next(iter(comparison.measured), None), _pure_torch(comparison)
    if first is None or first in PEERS or first in ('reference', mamba.NAME) or not others:
        return None
    return min(others) / comparison.timings[first].median


def _over_stages(chosen: Sequence[Comparison], value: Callable[[Comparison], float | None]) -> list[dict]:
    """A row for every network, picture and batch that has such a value, a column per stage."""
    rows: dict[tuple, dict] = {}
    for comparison in chosen:
        if (number := value(comparison)) is not None:
            place = _place(comparison)
            row = dict(zip(('network', 'image', 'batch'), place, strict=True))
            rows.setdefault(place, row)[f'stage {comparison.case["stage"]}'] = number
    return list(rows.values())


def main(argv: Sequence[str] | None = None) -> Path:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = command_line.parser_of(__doc__)
    networks = list(SparXMamba.ARCHITECTURES)
    images = [(224, 224), (512, 512), (800, 1280)]
    add, size = parser.add_argument, command_line.image_size
    add('--networks', nargs='+', choices=networks, default=networks, help='(default: all)')
    add('--images', nargs='+', type=size, default=images, metavar='HxW', help='(default: 224 512 800x1280)')
    add('--batches', nargs='+', type=command_line.positive, default=[1, 8], metavar='N', help='(default: 1 8)')
    add('--stages', nargs='+', type=int, choices=(1, 2, 3, 4), default=[1, 2, 3, 4], help='(default: all)')
    add('--passes', nargs='+', choices=PASSES, default=USUAL_PASSES, help='(default: forward forward+backward)')
    add('--dtype', choices=DTYPES, default='float32', help='of u, delta, B and C (default: float32)')
    add('--contenders', nargs='+', metavar='NAME', help='on every case (default: as said above)')
    add('--cuda-graphs', action='store_true', help='time CUDA graphs of the calls: without what takes to launch them')
    args = parser.parse_args(argv)
    known = list(contenders(args.device))
    for name in args.contenders or ():
        if name not in known:
            parser.error(f'argument --contenders: invalid choice: {name!r} (choose from {", ".join(known)})')
    if args.cuda_graphs and args.device.type != 'cuda':
        parser.error('--cuda-graphs: only a GPU has them; add --device cuda')
    protocol = command_line.prepare(parser, args)
    suffix = f'{args.dtype}_graphs' if args.cuda_graphs else args.dtype
    return command_line.run('selective_scan', args, argv, comparisons(args, protocol), tables, suffix)


if __name__ == '__main__':
    main()
