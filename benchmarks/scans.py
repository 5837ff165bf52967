"""Parts shared by the benchmarks of scans: contenders, their calls and comparison, and the cases of a run.

One case is a stage of SparX-Mamba on images of one size. Its scan has four directions and one state.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import command_line, scan_tables
from benchmarks.report import Comparison
from mmsparx.analysis.timing import (
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
from mmsparx.ops import native
from mmsparx.ops.selective_scan import backends

CPU = torch.device('cpu')
DIRECTIONS = 4
STATES = 1
PASSES = ('forward', 'backward', 'forward+backward')
USUAL_PASSES = ('forward', 'forward+backward')
COPY = 'copy'
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
FULL = ('tiny', (224, 224), 1)  # the network, image and batch on which all contenders run
# Elements of one tensor (batch, channels of all directions, positions).
CHECKED_UP_TO = 10_000_000  # beyond, the float64 truth takes longer than the measurement
REFERENCE_UP_TO = 50_000_000
BYTES_PER_ELEMENT = 8 * 4  # input, delta, output, their gradients, and a reserve, in float32


@dataclass(frozen=True)
class Contender:
    """An implementation to time.

    Attributes:
        scan: Function of the inputs, by name -> out.
        within: Context that forward and backward run in.
    """

    scan: Callable[..., Tensor]
    within: Callable[[], AbstractContextManager] = nullcontext


@dataclass(frozen=True)
class Operation:
    """A scan to measure.

    Attributes:
        name: Name of its benchmark.
        contenders: Function device -> all contenders there, best first, including 'reference'.
        default_names: Function (network, image, batch, elements, device) -> default contenders of a case.
        shape: Function (network, image, stage) -> entries of a case: 'channels' of all directions, 'length', and more.
        make_inputs: Function (case, device) -> inputs by name, including A (channels, states) and B (batch, directions,
            states, length).
        tables: Tables of a report.
        within: Context that its contenders are compared in.
    """

    name: str
    contenders: Callable[[torch.device], dict[str, Contender]]
    default_names: Callable[..., list[str]]
    shape: Callable[[str, tuple[int, int], int], dict[str, str | int]]
    make_inputs: Callable[[dict[str, str | int], torch.device], dict[str, Tensor]]
    tables: scan_tables.Tables
    within: Callable[[], AbstractContextManager] = nullcontext


def variants(device: torch.device) -> Iterator[tuple[str, backends.Backend, Callable[[], AbstractContextManager]]]:
    """mmsparx's backends for a device, best first, with their names and the context to run them in.

    On a CPU the native one occurs once for every instruction set that can run here.
    """
    for backend in backends.BACKENDS:
        if backend.devices is not None and device.type not in backend.devices:
            continue
        if backend.name == 'native' and device.type == 'cpu' and backend.missing() is None:
            for instructions in native.instruction_sets():
                yield f'native-{instructions}', backend, partial(native.use_instruction_set, instructions)
        else:
            yield backend.name, backend, nullcontext


def without_slow(names: Sequence[str], elements: int) -> list[str]:
    """The names without slower instruction sets, and without the reference where it takes too long."""
    lesser = tuple(f'native-{instructions}' for instructions in native.instruction_sets()[1:])
    return [
        name for name in names if not (name.startswith(lesser) or (name == 'reference' and elements > REFERENCE_UP_TO))
    ]


def channels_of(network: str, stage: int) -> int:
    """C of a stage, counted from 1."""
    return SparXMamba.ARCHITECTURES[network].channels[stage - 1]


def map_of(image: tuple[int, int], stage: int) -> tuple[int, int]:
    """Height and width of a stage's map."""
    stride = 4 * 2 ** (stage - 1)
    return -(-image[0] // stride), -(-image[1] // stride)


def elements_of(inputs: dict[str, Tensor]) -> int:
    """batch * channels of all directions * positions."""
    return inputs['B'].shape[0] * inputs['A'].shape[0] * inputs['B'].shape[-1]


def fresh_delta_bias(channels: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """The bias of a fresh network, for steps from 0.001 to 0.1."""
    step = 10 ** (-3 + 2 * torch.rand(channels, generator=generator, device=generator.device, dtype=dtype))
    return step + torch.log(-torch.expm1(-step))  # the inverse of softplus


def call_of(contender: Contender, inputs: dict[str, Tensor], which: str) -> Callable[[], tuple[Tensor, ...]]:
    """A call that returns the output, or all gradients of the sum of its squares over two; `which`: one of `PASSES`.

    For the backward alone, its first call runs the forward, too.
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
    operation: Operation,
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
        operation: Operation that they compute.
        names: Names of the contenders.
        inputs: Inputs from its `make_inputs`.
        which: Pass, one of `PASSES`.
        protocol: Protocol of the measurement.
        case: Description of the case.
        copying: Copy that takes turns with the contenders, as the measure of a GPU's memory; None without one.
        graphs: True to time CUDA graphs of the calls.
    """
    device = inputs['A'].device
    known = operation.contenders(device)
    calls = {name: call_of(known[name], inputs, which) for name in names}
    with operation.within():
        truth = None
        if elements_of(inputs) <= CHECKED_UP_TO:
            truth = call_of(known['reference'], {name: x.double() for name, x in inputs.items()}, which)()
        timed = dict(calls)
        if graphs:  # graphs need their own calls: a backward runs on its forward's stream, the captured one
            timed = {name: _Graph(call_of(known[name], inputs, which), device) for name in names}
        if copying is not None:
            timed[COPY] = copying
        timings = interleave(timed, protocol, clock_of(device))
        copy = timings.pop(COPY, None)
        if copy is not None:
            copy.facts['bytes'] = copying.bytes
        for name, timing in timings.items():
            if timing.skipped is None:
                try:
                    timing.facts |= _facts(calls[name], truth, device)
                except Exception as error:
                    timing.skip(error)
    return Comparison(case or {}, timings, copy)


def _facts(call: Callable[[], tuple[Tensor, ...]], truth: tuple[Tensor, ...] | None, device: torch.device) -> dict:
    """Error of a call, if the truth is known, and its memory on a GPU."""
    outputs = call()  # its graph may have been timed, and not itself been called before
    facts = {} if truth is None else {'relative_error': relative_error(outputs, truth)}
    del outputs
    peak = peak_memory(call, device)
    return facts if peak is None else facts | {'peak_bytes': peak}


class _Graph:
    """A call that is captured at its first run, in which `interleave` notices failures."""

    def __init__(self, call: Callable[[], object], device: torch.device):
        self.call, self.device, self.replay = call, device, None

    def __call__(self) -> object:
        if self.replay is None:
            self.replay = as_graph(self.call, self.device)
        return self.replay()


def comparisons(operation: Operation, args: argparse.Namespace, protocol: Protocol) -> Iterator[Comparison]:
    """Comparisons of all cases that the options name, one after the other."""
    copying = Copying(args.device) if args.device.type == 'cuda' else None
    for network in args.networks:
        for image in args.images:
            for batch in args.batches:
                for stage in args.stages:
                    case = {'network': network, 'image': 'x'.join(map(str, image)), 'batch': batch, 'stage': stage}
                    case |= {**operation.shape(network, image, stage), 'type': args.dtype}
                    elements = batch * case['channels'] * case['length']
                    names = args.contenders or operation.default_names(network, image, batch, elements, args.device)
                    needed, free = BYTES_PER_ELEMENT * elements, free_memory(args.device)
                    if needed > free:
                        lack = f'takes about {needed / 2**30:.0f} GiB of memory, {free / 2**30:.0f} are free'
                        for which in args.passes:
                            skipped = {name: Timing(skipped=lack) for name in names}
                            yield Comparison({**case, 'pass': which}, skipped)
                        continue
                    inputs = operation.make_inputs(case, args.device)
                    for which in args.passes:
                        named = {**case, 'pass': which}
                        yield compare(operation, names, inputs, which, protocol, named, copying, args.cuda_graphs)
                    del inputs


def main(
    operation: Operation,
    description: str,
    argv: Sequence[str],
    images: Sequence[tuple[int, int]],
    batches: Sequence[int],
) -> Path:
    """The command of an operation's benchmark.

    Args:
        operation: Operation to measure.
        description: Description for --help.
        argv: Arguments of the command.
        images, batches: Default images and batches.

    Returns:
        The path of the result's JSON.
    """
    parser = command_line.parser_of(description)
    networks = list(SparXMamba.ARCHITECTURES)
    add, size = parser.add_argument, command_line.image_size
    said = ' '.join(str(height) if height == width else f'{height}x{width}' for height, width in images)
    add('--networks', nargs='+', choices=networks, default=networks, help='(default: all)')
    add('--images', nargs='+', type=size, default=list(images), metavar='HxW', help=f'(default: {said})')
    said = ' '.join(map(str, batches))
    add(
        '--batches',
        nargs='+',
        type=command_line.positive,
        default=list(batches),
        metavar='N',
        help=f'(default: {said})',
    )
    add('--stages', nargs='+', type=int, choices=(1, 2, 3, 4), default=[1, 2, 3, 4], help='(default: all)')
    add('--passes', nargs='+', choices=PASSES, default=USUAL_PASSES, help='(default: forward forward+backward)')
    add('--dtype', choices=DTYPES, default='float32', help='type of the inputs (default: float32)')
    add('--contenders', nargs='+', metavar='NAME', help='contenders of every case (default: see above)')
    add('--cuda-graphs', action='store_true', help='time CUDA graphs of the calls, without the time of launches')
    args = parser.parse_args(argv)
    known = list(operation.contenders(args.device))
    for name in args.contenders or ():
        if name not in known:
            parser.error(f'argument --contenders: invalid choice: {name!r} (choose from {", ".join(known)})')
    if args.cuda_graphs and args.device.type != 'cuda':
        parser.error('--cuda-graphs: only a GPU has them; add --device cuda')
    protocol = command_line.prepare(parser, args)
    suffix = f'{args.dtype}_graphs' if args.cuda_graphs else args.dtype
    made = comparisons(operation, args, protocol)
    return command_line.run(operation.name, args, argv, made, operation.tables, suffix)
