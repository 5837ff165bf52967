"""`mmsparx analyze resolution`: accuracy and multiply-adds over input sizes."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from mmsparx.cli.analyze.arguments import add_model_arguments, add_out_arguments
from mmsparx.cli.analyze.sizes import Row
from mmsparx.cli.arguments import FOLDERS, at_least, completed
from mmsparx.cli.running import Command

if TYPE_CHECKING:  # the command has to start where torch is broken
    from mmsparx.cli.named_model import NamedModel

DESCRIPTION = """\
Measure accuracy over input sizes with the same weights, as Table 15 of the paper does, beside GFLOPs and parameters.

The short side of an image is resized to floor(size / crop ratio), bicubic, and the centre is cropped. The crop ratio
is that of the config (0.9 of SparX-Mamba-T, 0.95 of S and B), and 0.875 of other networks. --data is a folder with a
folder of images for each class, as val of ImageNet, in the order of the model's classes. Without it, nothing is
measured, and the table has GFLOPs and parameters alone. Writes resolution.md, resolution.json and resolution.png.

    mmsparx analyze resolution --model sparx_mamba_t_in1k published --model convnext_tiny published --data imagenet/val
    mmsparx analyze resolution --model sparx_mamba_t_in1k --model vmamba_t_in1k
"""
NAMES = ('resolution.md', 'resolution.json', 'resolution.png')
SIZES = (224, 384, 512, 640, 768, 1024)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add models, images and sizes."""
    add_model_arguments(parser)
    data = parser.add_argument('--data', metavar='FOLDER', help='folder with a folder of images for each class')
    completed(data, FOLDERS)
    parser.add_argument(
        '--sizes',
        type=at_least(1),
        nargs='+',
        default=list(SIZES),
        metavar='PIXELS',
        help=f'sides of the images (default: {" ".join(map(str, SIZES))})',
    )
    parser.add_argument(
        '--crop-ratio', type=ratio, metavar='RATIO', help='crop ratio of all models, instead of their own'
    )
    parser.add_argument(
        '--batch-size',
        type=at_least(1),
        default=32,
        metavar='N',
        help='images at once (default: %(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=at_least(0),
        default=2,
        metavar='N',
        help='reading processes (default: %(default)s)',
    )
    add_out_arguments(parser, 'resolution')


def ratio(text: str) -> float:
    """A type of arguments: crop ratios."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f'expected a number above 0, up to 1, got {text!r}')
    return value


def run(args: argparse.Namespace) -> None:
    """Measure and count, and write the results after every size."""
    from mmsparx.cli.analyze.curves import draw_sizes
    from mmsparx.cli.analyze.results import prepare_folder
    from mmsparx.cli.models import load_models

    out = prepare_folder(args.out, args.data, NAMES, args.force)
    models = load_models(args.models, args.labels, seed=args.seed, device=args.device)
    check_models(models, args)
    rows = []
    for row in (row for model in models for row in measure(model, args)):
        rows.append(row)
        text = report(rows)
        (out / 'resolution.md').write_text(f'# Accuracy over input sizes\n\n{text}\n', encoding='utf-8')
        (out / 'resolution.json').write_text(json.dumps([asdict(row) for row in rows], indent=2) + '\n')
    draw_sizes(rows, out / 'resolution.png')
    sys.stdout.write(f'{text}\n\n{out / "resolution.png"}, resolution.md and resolution.json are written\n')


def check_models(models: 'Sequence[NamedModel]', args: argparse.Namespace) -> None:
    """Fail before the first measurement where a later one could not be made.

    Raises:
        ValueError: A model does not take one of the sizes, whose images may not fit into memory, or it has other
            classes than the data.
    """
    from fractions import Fraction

    from mmsparx.cli.analyze.accuracy import ClassFolders, check_classifier
    from mmsparx.cli.analyze.memory import check_inputs

    classes = None if args.data is None else ClassFolders(args.data, args.sizes[0], Fraction(1)).classes
    for model in models:
        own = model.preprocessing
        for size in args.sizes:
            model.at_size(size)
            if args.data is not None:
                model.preprocessing.check()
                check_inputs([model], args.batch_size)
        if classes is not None:
            check_classifier(model.at_size(min(args.sizes)), classes)
        model.preprocessing = own  # it has the crop ratio


def measure(model: 'NamedModel', args: argparse.Namespace) -> Iterator[Row]:
    """A model at each of the sizes; its weights stay as they are."""
    from copy import deepcopy
    from fractions import Fraction

    from mmsparx.cli.analyze.accuracy import ClassFolders, crop_ratio
    from mmsparx.cli.analyze.accuracy import measure as measure_accuracy
    from mmsparx.cli.analyze.counting import count
    from mmsparx.cli.analyze.paper import accuracy as of_paper

    own = crop_ratio(model) if args.crop_ratio is None else Fraction(str(args.crop_ratio))
    for size in args.sizes:
        model.at_size(size)
        accuracies = None
        if args.data is not None:
            data = ClassFolders(args.data, size, own)
            accuracies = measure_accuracy(model, data, args.batch_size, args.workers, f'{model.label} at {size}')
        on_meta = deepcopy(model.module).to('meta')
        plain, norms = (count(on_meta, size, size, norms) for norms in (False, True))
        yield Row(
            model.label,
            model.weights,
            size,
            float(own),
            plain.params,
            plain.macs,
            norms.macs,
            accuracies,
            *of_paper(model.name, size),
        )


def report(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown, with what has to be said of them."""
    from mmsparx.cli.analyze.results import table
    from mmsparx.cli.images import passed_over

    measured = rows[0].accuracies is not None
    head = ['model', 'size', 'M parameters', 'GFLOPs', 'with norms', "GFLOPs (paper's)"]
    head += ['top-1', 'top-5', "top-1 (paper's)"] if measured else ["top-1 (paper's)"]
    cells = [head]
    for row in rows:
        counted = [f'{row.params / 1e6:.2f}', _giga(row.macs), _giga(row.macs_with_norms)]
        cells.append([row.model, row.size, *counted, _or_dash(row.paper_gflops, 1)])
        if measured:
            cells[-1] += [_or_dash(row.accuracies.top1, 2), _or_dash(row.accuracies.top5, 2)]
        cells[-1].append(_or_dash(row.paper_top1, 1))
    notes = [
        "Columns of the paper's are what the paper prints (Tables 15 and 17), of its own weights; all else is measured "
        'or counted here. One multiply-add is one FLOP; the paper counts SparX-Mamba without norms, VMamba with them.'
    ]
    for row in {row.model: row for row in rows}.values():
        notes.append(f'{row.model}: {row.weights}, crop ratio {row.crop_ratio:g}.')
        if measured:
            notes[-1] = f'{notes[-1][:-1]}, {row.accuracies.count} images.'
    if measured and (unread := rows[0].accuracies.unreadable):
        notes.append(f'{passed_over(unread)}.')
    return '\n'.join([table(cells), '', *(f'- {note}' for note in notes)])


def _giga(macs: int) -> str:
    """Multiply-adds in thousands of millions, with two digits behind the point or three that count."""
    return f'{macs / 1e9:.2f}' if macs >= 1e9 else f'{macs / 1e9:.3g}'


def _or_dash(value: float | None, digits: int) -> str:
    return '-' if value is None else f'{value:.{digits}f}'


COMMAND = Command('resolution', 'measure accuracy over input sizes', add_arguments, run, DESCRIPTION)
