"""The selective scan's speed over the networks' sizes, against every pure-torch form in use.

One case is a stage of SparX-Mamba on pictures of one size; its scan has four directions, one state,
softplus, skip connection and bias. By default every contender runs on tiny at 224x224, batch 1, and the backends of
mmsparx alone on the other cases; the pure-torch one not on the largest.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import command_line
from benchmarks.peers import PEERS
from benchmarks.report import Comparison, Report, markdown
from benchmarks.timing import CANNOT_RUN, Protocol, Timing, clock_of, free_memory, interleave, peak_memory
from mmsparx.models.backbones import SparXMamba
from mmsparx.ops import available_backends, selective_scan, state_dtype
from mmsparx.ops.selective_scan import native

DIRECTIONS = 4
PASSES = ('forward', 'forward+backward')
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


def backends() -> dict[str, Contender]:
    """mmsparx's backends, best first; the native one once for every instruction set that can run here."""
    found = {}
    for name, missing in available_backends().items():
        scan = partial(_ours, backend=name)
        if name == 'native' and missing is None:
            for instructions in native.instruction_sets():
                found[f'native-{instructions}'] = Contender(scan, partial(native.use_instruction_set, instructions))
        else:
            found[name] = Contender(scan)
    return found


def contenders() -> dict[str, Contender]:
    """All that can be compared: the backends, then the peers."""
    return backends() | {name: Contender(scan) for name, scan in PEERS.items()}


def default_names(network: str, image: tuple[int, int], batch: int, elements: int) -> list[str]:
    """The contenders of a case where none are asked for."""
    if (network, image, batch) == FULL:
        return list(contenders())
    names = list(backends())
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
    batch: int, channels: int, length: int, device: torch.device, dtype: torch.dtype = torch.float32, states: int = 1
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


def call_of(contender: Contender, inputs: dict[str, Tensor], backward: bool) -> Callable[[], tuple[Tensor, ...]]:
    """A call that returns the output, or all gradients of the sum of its squares over two."""
    if not backward:

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad(), contender.within():
                return (contender.scan(**inputs),)

        return forward
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}

    def both() -> tuple[Tensor, ...]:
        with contender.within():
            out = contender.scan(**leaves)
            # Some forms do not read A where there is one position.
            return torch.autograd.grad(out, list(leaves.values()), out.detach(), materialize_grads=True)

    return both


def relative_error(outputs: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """The largest ||x - truth|| / ||truth|| among the tensors."""
    pairs = zip(outputs, truth, strict=True)
    return max(((x.double() - true).norm() / true.norm()).item() for x, true in pairs)


def compare(
    names: Sequence[str],
    inputs: dict[str, Tensor],
    backward: bool,
    protocol: Protocol,
    case: dict[str, str | int] | None = None,
) -> Comparison:
    """Time contenders on the same inputs, with their errors against float64 (unless the inputs are large).

    Args:
        names: of `contenders()`.
        inputs: as of `make_inputs`.
        backward: whether to time the gradients of all inputs as well.
        protocol: how long.
        case: what to call it.
    """
    device, known = inputs['u'].device, contenders()
    calls = {name: call_of(known[name], inputs, backward) for name in names}
    truth = None
    if inputs['u'].numel() <= CHECKED_UP_TO:
        truth = call_of(known['reference'], {name: x.double() for name, x in inputs.items()}, backward)()
    facts: dict[str, dict] = {name: {} for name in names}
    for name, call in calls.items():
        with suppress(*CANNOT_RUN):  # `interleave` says why
            if truth is not None:
                facts[name]['relative_error'] = relative_error(call(), truth)
            if (peak := peak_memory(call, device)) is not None:
                facts[name]['peak_bytes'] = peak
    del truth
    timings = interleave(calls, protocol, clock_of(device))
    for name, timing in timings.items():
        timing.facts = facts[name]
    return Comparison(case or {}, timings)


def comparisons(args, protocol: Protocol) -> Iterator[Comparison]:
    """Every case that the options name, as it is measured."""
    for network in args.networks:
        for image in args.images:
            for batch in args.batches:
                for stage in args.stages:
                    channels, length = stage_shape(network, image, stage)
                    elements = batch * channels * length
                    names = args.contenders or default_names(network, image, batch, elements)
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
                        yield compare(names, inputs, which != 'forward', protocol, {**case, 'pass': which})


def _nanoseconds(comparison: Comparison) -> float:
    """Per second of a call: nanoseconds per element, an element being one of (batch, channels, length)."""
    case = comparison.case
    return 1e9 / (case['batch'] * case['channels'] * case['length'])


def _pure_torch(comparison: Comparison) -> list[float]:
    return [timing.median for name, timing in comparison.measured.items() if name in PEERS or name == 'reference']


def tables(report: Report) -> str:
    """All contenders of a case against the first, where there are many; then the first over all cases."""
    parts = [
        'An element is one of (batch, channels, positions). Errors are those of the output, or the worst of all '
        'gradients, against float64.'
    ]
    for which in PASSES:
        chosen = [comparison for comparison in report.comparisons if comparison.case['pass'] == which]
        full = [comparison for comparison in chosen if len(comparison.measured) > 2]
        for place in dict.fromkeys(map(_place, full)):
            rows = [row for comparison in full if _place(comparison) == place for row in _details(comparison)]
            parts += ['## All contenders, {}: {}, {}, batch {}'.format(which, *place), markdown(rows)]
        for title, value in (('ns per element', _best), ('times as fast as the fastest pure-torch form there', _gain)):
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
        yield {
            **row,
            'ns/element': timing.median * scale,
            'minimum': timing.minimum * scale,
            'IQR': timing.iqr * scale,
            'samples': len(timing.seconds),
            f'time / {first}': timing.median / comparison.timings[first].median,
            'error': timing.facts.get('relative_error'),
        }


def _best(comparison: Comparison) -> float | None:
    first = next(iter(comparison.measured.values()), None)
    return None if first is None else first.median * _nanoseconds(comparison)


def _gain(comparison: Comparison) -> float | None:
    first, others = next(iter(comparison.measured), None), _pure_torch(comparison)
    if first is None or first in PEERS or first == 'reference' or not others:
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
    add('--passes', nargs='+', choices=PASSES, default=PASSES, help='(default: both)')
    add('--dtype', choices=DTYPES, default='float32', help='of u, delta, B and C (default: float32)')
    add('--contenders', nargs='+', choices=list(contenders()), help='on every case (default: as said above)')
    args = parser.parse_args(argv)
    protocol = command_line.prepare(parser, args)
    return command_line.run('selective_scan', args, argv, comparisons(args, protocol), tables, args.dtype)


if __name__ == '__main__':
    main()
