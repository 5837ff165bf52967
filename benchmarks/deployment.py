"""The speed of exported classifiers in their runtimes, against eager torch, and against timm's Swin-T.

SparX-Mamba is exported with open sizes by `mmsparx.export`, which checks the files; Swin-T, which stands for a network
without a scan, by torch.onnx at the size that is measured. onnxruntime runs SparX-Mamba without `ort_library` and,
where it was compiled, with it. Runtimes run with as many threads as torch, on the CPU. Weights are random.
"""

import copy
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import command_line
from benchmarks.network import BASELINE, SIZES, build
from benchmarks.report import Comparison, Report, markdown
from mmsparx.analysis.timing import Protocol, interleave
from mmsparx.export import export, fold, open_file
from mmsparx.export.runtimes import ONNXRUNTIME
from mmsparx.ops import native

OURS = 'SparX-Mamba'
EAGER = 'torch, eager'
SUFFIXES = ('.onnx', '.xml', '.pt2')
Call = Callable[[np.ndarray], np.ndarray]


def eager(model: nn.Module) -> Call:
    """A torch model as a function of arrays."""

    def call(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(image)).numpy()

    return call


def ours(size: str, folder: Path, suffixes: Sequence[str]) -> tuple[Call, dict[str, Call]]:
    """A SparX-Mamba by eager torch, and all ways to run it by name; each file is written into the folder."""
    torch.manual_seed(0)
    model = build(OURS, size).eval()
    name = f'{OURS}-{size[0].upper()}'
    calls = {f'{name}, {EAGER}': eager(model), f'{name}, {EAGER}, folded': eager(fold(copy.deepcopy(model)))}
    for suffix in suffixes:
        file = folder / f'network{suffix}'
        print(export(model, file), flush=True)
        for library in (False, True) if suffix == '.onnx' and native.without_ort() is None else (False,):
            runtime, call = _of_file(file, library)
            calls[f'{name}, {runtime}'] = call
    return calls[f'{name}, {EAGER}'], calls


def swin(image: tuple[int, int], folder: Path, batch: int) -> dict[str, Call]:
    """Swin-T by eager torch and by onnxruntime."""
    torch.manual_seed(0)
    model = build(BASELINE, 'tiny', image).eval()
    file = folder / 'swin.onnx'
    torch.onnx.export(model, (torch.zeros(batch, 3, *image),), file, dynamo=True, verbose=False)
    name, (runtime, call) = f'{BASELINE}-T', _of_file(file)
    return {f'{name}, {EAGER}': eager(model), f'{name}, {runtime}': call}


def _of_file(file: Path, library: bool = False) -> tuple[str, Call]:
    """The name of the runtime of a file, and the file as a function."""
    run = open_file(file, threads=torch.get_num_threads(), library=library)
    return run.runtime, lambda image: run(image)[0]


def comparisons(args, protocol: Protocol) -> Iterator[Comparison]:
    """A comparison for each size of the network, image and batch."""
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            reference, networks = ours(size, Path(folder), args.files)
            for image in args.images:
                for batch in args.batches:
                    calls = {**networks, **swin(image, Path(folder), batch)}
                    yield compare(calls, reference, (batch, 3, *image), protocol, {'size': size})


def compare(
    calls: dict[str, Call], reference: Call, shape: tuple[int, ...], protocol: Protocol, case: dict
) -> Comparison:
    """Time calls on an image; those of the reference's network are compared with it.

    Args:
        calls: Functions of an image by name.
        reference: Function that returns the correct outputs of our networks.
        shape: Shape of the image.
        protocol: Protocol of the measurement.
        case: Further facts of the case besides the shape.
    """
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    timings = interleave({name: lambda call=call: call(image) for name, call in calls.items()}, protocol)
    expected = reference(image)
    for name, timing in timings.items():
        if timing.skipped is None and name.startswith(OURS):
            timing.facts['error'] = float(np.abs(calls[name](image) - expected).max() / np.abs(expected).max())
    return Comparison({**case, 'image': 'x'.join(map(str, shape[2:])), 'batch': shape[0]}, timings)


def tables(report: Report) -> str:
    """A row for every way to run a network."""
    return markdown([row for comparison in report.comparisons for row in _rows(comparison)])


def _rows(comparison: Comparison) -> Iterator[dict]:
    measured = comparison.measured
    for name, timing in comparison.timings.items():
        network = name.partition(',')[0]
        row = {'image': comparison.case['image'], 'batch': comparison.case['batch'], 'network, runtime': name}
        if timing.skipped is not None:
            yield {**row, 'remark': f'skipped: {timing.skipped}'}
            continue
        row |= {'ms': timing.median * 1e3, 'minimum': timing.minimum * 1e3, 'IQR': timing.iqr * 1e3}
        row['samples'] = len(timing.seconds)
        others = {'eager': f'{network}, {EAGER}'}
        others |= {f'{BASELINE}-T, {kind}': f'{BASELINE}-T, {kind}' for kind in (EAGER, ONNXRUNTIME)}
        for label, other in others.items():
            if other in measured:
                row[f'speed / {label}'] = measured[other].median / timing.median
        if 'error' in timing.facts:
            row['error'] = timing.facts['error']
        yield row


def main(argv: Sequence[str] | None = None) -> Path:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = command_line.parser_of(__doc__)
    add = parser.add_argument
    add('--sizes', nargs='+', choices=SIZES, default=['tiny'], help='(default: tiny)')
    add('--files', nargs='+', choices=SUFFIXES, default=list(SUFFIXES), help='(default: all)')
    add('--images', nargs='+', type=command_line.image_size, default=[(224, 224)], metavar='HxW', help='(default: 224)')
    add('--batches', nargs='+', type=command_line.positive, default=[1], metavar='N', help='(default: 1)')
    args = parser.parse_args(argv)
    if args.device.type != 'cpu':
        parser.error('--device: the files run on the CPU here')
    protocol = command_line.prepare(parser, args)
    return command_line.run('deployment', args, argv, comparisons(args, protocol), tables)


if __name__ == '__main__':
    main()
