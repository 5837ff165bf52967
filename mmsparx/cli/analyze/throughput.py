"""`mmsparx analyze throughput`: images per second and memory."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from mmsparx.cli.analyze.arguments import add_model_arguments, add_out_arguments
from mmsparx.cli.arguments import at_least
from mmsparx.cli.running import Command

if TYPE_CHECKING:  # the command has to start where torch is broken
    from mmsparx.cli.analyze.speed import Speed

DESCRIPTION = """\
Measure throughput and memory of inference, as Tables 4, 16 and 17 of the paper do, on images of noise.

Models take turns (mmsparx.analysis.timing), so that what the machine does meanwhile meets all of them; the median of
the samples counts. Peak memory is that of weights, images and a call, on GPUs; saved bytes are what a forward pass
leaves allocated for the backward pass, for each image. What does not fit into memory is a row with the reason. The
paper's figures are of an NVIDIA H800, in a precision that it does not say. Writes throughput.md and throughput.json.

    mmsparx analyze throughput --model sparx_mamba_t_in1k --model vmamba_t_in1k --model swin_tiny_patch4_window7_224
    mmsparx analyze throughput --model sparx_mamba_t_in1k --device cpu --cases 224/1 224/8
"""
NAMES = ('throughput.md', 'throughput.json')
# (size, batch) where nothing else is asked for: the paper's on a GPU.
CASES = ((224, 128), (384, 128), (512, 128), (768, 64), (1024, 32))
CASES_ON_CPU = ((224, 1), (224, 8))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add models, cases, and how to measure."""
    add_model_arguments(parser)
    parser.add_argument(
        '--cases',
        type=case,
        nargs='+',
        metavar='SIZE/BATCH',
        help='side of the images in pixels, and number of images in a batch (default: '
        f'{_in_words(CASES)}; on a CPU {_in_words(CASES_ON_CPU)})',
    )
    parser.add_argument(
        '--precision',
        choices=['fp32', 'tf32', 'bf16', 'fp16'],
        default='fp32',
        help='precision of products; bf16 and fp16 are by autocast (default: %(default)s)',
    )
    parser.add_argument(
        '--seconds',
        type=float,
        default=3.0,
        metavar='S',
        help='seconds that each model is timed in each case, about (default: %(default)s)',
    )
    parser.add_argument(
        '--samples',
        type=at_least(3),
        default=30,
        metavar='N',
        help='number of samples of each model in each case, at most (default: %(default)s)',
    )
    parser.add_argument(
        '--threads', type=at_least(1), metavar='N', help="number of threads of the CPU (default: torch's, all cores)"
    )
    add_out_arguments(parser, 'throughput')


def _in_words(cases: tuple[tuple[int, int], ...]) -> str:
    return ' '.join(f'{size}/{batch}' for size, batch in cases)


def case(text: str) -> tuple[int, int]:
    """A type of arguments: '224/128' -> (224, 128)."""
    size, slash, batch = text.partition('/')
    if not (slash and size.isdecimal() and batch.isdecimal() and int(size) and int(batch)):
        raise argparse.ArgumentTypeError(f'expected SIZE/BATCH as 224/128, got {text!r}')
    return int(size), int(batch)


def run(args: argparse.Namespace) -> None:
    """Measure, and write the results after every case."""
    import torch

    from mmsparx.analysis.timing import Protocol
    from mmsparx.cli.analyze.results import prepare_folder
    from mmsparx.cli.analyze.speed import measure
    from mmsparx.cli.models import load_models

    protocol = Protocol(args.seconds, args.samples)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    out = prepare_folder(args.out, None, NAMES, args.force)
    models = load_models(args.models, args.labels, seed=args.seed, device=args.device)
    for model in models:
        if model.library == 'mmdet':
            raise ValueError(
                f'{model.label}: expected classifiers or segmenters, got a detector, whose time depends on what it '
                'detects, and noise shows nothing; name the classifier over the same network'
            )
    device = next(models[0].module.parameters()).device
    names = {model.label: model.name for model in models}
    where = place(device, args.precision)
    rows = []
    for size, batch in args.cases or (CASES_ON_CPU if device.type == 'cpu' else CASES):
        sys.stderr.write(f'{size}x{size}, batch {batch}\n')
        found = measure(models, size, batch, protocol, args.precision)
        rows += [as_row(label, names[label], size, batch, speed) for label, speed in found.items()]
        text = report(rows, where)
        (out / 'throughput.md').write_text(f'# Throughput and memory\n\n{text}\n', encoding='utf-8')
        contents = {'where': where, 'precision': args.precision, 'rows': rows}
        (out / 'throughput.json').write_text(json.dumps(contents, indent=2) + '\n')
    sys.stdout.write(f'{text}\n\n{out / "throughput.md"} and throughput.json are written\n')


def place(device: object, precision: str) -> str:
    """The place and protocol of the measurement, in words."""
    import torch

    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        name = f'{device.type.upper()}, {threads} thread{"s" * (threads > 1)}'
    return f'{name}, {precision}, torch {torch.__version__}'


def as_row(label: str, name: str, size: int, batch: int, speed: 'Speed') -> dict:
    """The measurements of a model, and the paper's figures."""
    from mmsparx.cli.analyze.paper import throughput as of_paper

    timing = speed.timing
    paper_speed, paper_memory = of_paper(name, size, batch)
    return {
        'model': label,
        'size': size,
        'batch': batch,
        'images_per_second': None if timing.skipped else batch / timing.median,
        'spread': None if timing.skipped else timing.iqr / timing.median,
        'seconds': timing.seconds,
        'skipped': timing.skipped,
        'peak_bytes': speed.peak_bytes,
        'saved_bytes_per_image': speed.saved_bytes,
        'paper_images_per_second': paper_speed,
        'paper_mb': paper_memory,
    }


def report(rows: list[dict], where: str) -> str:
    """The rows as a table in Markdown."""
    from mmsparx.analysis.timing import OUT_OF_MEMORY
    from mmsparx.cli.analyze.results import table

    head = ('model', 'size', 'batch', 'images/s', 'IQR', 'peak MB', 'saved MB per image')
    cells = [(*head, "images/s (paper's, H800)", "MB (paper's, H800)")]
    for row in rows:
        if row['skipped'] is not None:
            measured = (OUT_OF_MEMORY if row['skipped'].startswith(OUT_OF_MEMORY) else 'skipped', '-')
        else:
            measured = (f'{row["images_per_second"]:.1f}', f'{row["spread"]:.0%}')
        in_bytes = (row['peak_bytes'], row['saved_bytes_per_image'])
        memory = ('-' if value is None else f'{value / 2**20:.1f}' for value in in_bytes)
        paper = ('-' if row[key] is None else row[key] for key in ('paper_images_per_second', 'paper_mb'))
        cells.append((row['model'], row['size'], row['batch'], *measured, *memory, *paper))
    notes = [
        f'Measured on {where}, in evaluation mode, without gradients.',
        "Columns of the paper's are what it prints of an NVIDIA H800, and are no measurements of this project.",
    ]
    skipped = [row for row in rows if row['skipped'] is not None]
    notes += (f'{row["model"]} at {row["size"]}/{row["batch"]}: {row["skipped"]}' for row in skipped)
    return '\n'.join([table(cells), '', *(f'- {note}' for note in notes)])


COMMAND = Command('throughput', 'measure images per second and memory', add_arguments, run, DESCRIPTION)
