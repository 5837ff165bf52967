"""Options and steps of a run that the benchmarks share."""

import argparse
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import plot
from benchmarks.report import Comparison, Report, environment, hardware_name
from mmsparx.analysis.timing import Protocol, Timing


def parser_of(description: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark of speed has."""
    parser = result_parser(description)
    parser.add_argument('--device', type=device_of, default='cpu', help='cpu, cuda or cuda:N (default: cpu)')
    parser.add_argument('--seconds', type=float, default=3.0, help='time per contender and case (default: 3)')
    parser.add_argument('--samples', type=int, default=30, help='most samples per contender and case (default: 30)')
    return parser


def result_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options of every command that writes results."""
    # An abbreviated --out would be taken for a part of the recorded command.
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument('--threads', type=positive, metavar='N', help="CPU threads (default: torch's, all cores)")
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/benchmarks'),
        help='folder of the results, which get a subfolder named after the hardware (default: %(default)s; '
        "'benchmarks/results' is for committed ones)",
    )
    parser.add_argument('--name', help="name of the result's files (default: from benchmark, threads and precision)")
    return parser


def image_size(text: str) -> tuple[int, int]:
    """'224' or '800x1280' -> (height, width), in pixels."""
    sides = text.split('x')
    if not (1 <= len(sides) <= 2 and all(side.isdecimal() and int(side) > 0 for side in sides)):
        raise argparse.ArgumentTypeError(f'expected a size in pixels as 224 or 800x1280 (height first), got {text!r}')
    return int(sides[0]), int(sides[-1])


def positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f'expected an integer from 1 on, got {text!r}')
    return int(text)


def device_of(text: str) -> torch.device:
    """'cpu', 'cuda' or 'cuda:1' -> the device, if it exists."""
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f'expected cpu, cuda or cuda:N, got {text!r}') from error
    if device.type not in ('cpu', 'cuda'):
        raise argparse.ArgumentTypeError(f'expected cpu, cuda or cuda:N, got {text!r}')
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError('this torch sees no GPU (torch.cuda.is_available() is false)')
    return device


def prepare(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Protocol:
    """Apply the common options; ends the program if they are invalid."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        # A GPU's queue must be filled and drained within a sample.
        return Protocol(args.seconds, args.samples)
    except ValueError as error:
        parser.error(str(error))


def run(
    benchmark: str,
    args: argparse.Namespace,
    argv: Sequence[str],
    comparisons: Iterable[Comparison],
    tables: Callable[[Report], str],
    suffix: str = '',
) -> Path:
    """Make and print the comparisons; save JSON and tables after every one, a plot at the end.

    Args:
        benchmark: Name of the benchmark, as of its module.
        args: Parsed options.
        argv: Arguments of the command.
        comparisons: Comparisons, which are made during the iteration.
        tables: Function that returns the report's tables as Markdown.
        suffix: Suffix of the files' names, after threads.

    Returns:
        The JSON file's path.
    """
    settings = {'device': args.device.type, 'threads': torch.get_num_threads()}
    report = Report(benchmark, _command(benchmark, argv), settings, environment(args.device))
    name = args.name or '_'.join(filter(None, [benchmark, _threads(report).replace(' ', '_'), suffix]))
    path = args.out / hardware_name(report.environment) / f'{name}.json'
    for comparison in comparisons:
        print(', '.join(f'{key} {value}' for key, value in comparison.case.items()), flush=True)
        for contender, timing in comparison.timings.items():
            print(f'  {contender:28} {summary(timing)}', flush=True)
        report.comparisons.append(comparison)
        report.save(path)
        text = f'{header(report)}\n\n{tables(report)}\n'
        path.with_suffix('.md').write_text(text)
    print(f'\n{text}\n{path}\n{path.with_suffix(".md")}')
    if benchmark not in plot.DRAWN:
        return path
    try:
        print(plot.draw(report, path.with_suffix('.png')))
    except ModuleNotFoundError as error:
        if error.name != 'matplotlib':
            raise
        print(f'no plot without matplotlib; elsewhere: python -m benchmarks.plot {path.name}')
    return path


def summary(timing: Timing) -> str:
    """One line about a contender."""
    if timing.skipped is not None:
        return f'skipped: {timing.skipped}'
    spread = timing.iqr / timing.median
    return f'{timing.median * 1e3:10.3f} ms, IQR {spread:4.0%} of it, {len(timing.seconds)} x {timing.calls} calls'


def _threads(report: Report) -> str:
    count = report.settings['threads']
    return f'{count} thread' + 's' * (count > 1)


def header(report: Report) -> str:
    """The environment and settings of a report, in Markdown."""
    facts = report.environment
    cpu, gpu = facts['hardware']['cpu'], facts['hardware'].get('gpu')
    vectors = 'AVX-512' if 'avx512f' in cpu['flags'] else 'AVX2' if 'avx2' in cpu['flags'] else 'no AVX2'
    machine = f'{cpu["model"]}, {cpu["cores"]} cores, {vectors}'
    if gpu:
        machine = f'{gpu["model"]}, CUDA {gpu["cuda"]}, driver {gpu["driver"]}; {machine}'
    git = facts['git']
    commit = f'{git["commit"][:10]}{" with changes" if git["dirty"] else ""}' if git else 'outside a checkout'
    return (
        f'`{report.command}`\n\n{machine}; {_threads(report)}; '
        f'{facts["os"]}; Python {facts["python"]}, torch {facts["torch"]}, timm {facts["timm"]}; '
        f'mmsparx {facts["mmsparx"]}, {commit}; {facts["date"][:10]}'
    )


def _command(benchmark: str, argv: Sequence[str]) -> str:
    """The command without its output folder, which only concerns the machine."""

    def kept() -> Iterator[str]:
        arguments = iter(argv)
        for argument in arguments:
            if argument == '--out':
                next(arguments, None)
            elif not argument.startswith('--out='):
                yield argument

    return shlex.join(['python', '-m', f'benchmarks.{benchmark}', *kept()])
