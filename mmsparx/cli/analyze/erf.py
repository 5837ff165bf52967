"""`mmsparx analyze erf`: effective receptive fields."""

import argparse
import sys
from typing import TYPE_CHECKING

from mmsparx.cli.analyze.arguments import add_image_arguments, add_model_arguments, add_out_arguments
from mmsparx.cli.arguments import at_least
from mmsparx.cli.running import Command

if TYPE_CHECKING:  # the command has to start where torch is broken
    from mmsparx.analysis.erf import ReceptiveField
    from mmsparx.cli.images import Images
    from mmsparx.cli.named_model import NamedModel

DESCRIPTION = """\
Measure effective receptive fields, as in Fig. 4 of the paper: how strongly each pixel acts on the unit at the centre of
a stage's output, as a mean over images.

Writes erf.png (a row a model, a column a stage), erf.md (the squares that hold 20, 30, 50 and 99 % of each field) and
erf.npz (the fields). Images are prepared as the model's test pipeline does it, and need no labels.

    mmsparx analyze erf --model sparx_mamba_t_in1k published --model convnext_tiny published --images val/
    mmsparx analyze erf --model my_config.py work_dirs/my_config/epoch_12.pth --images val/ --count 50 --size 1024
"""
NAMES = ('erf.npz', 'erf.md', 'erf.png')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add models, images, stages and scale."""
    add_model_arguments(parser)
    add_image_arguments(parser, count=200, batch_size=8)
    parser.add_argument(
        '--stages', type=at_least(1), nargs='+', metavar='STAGE', help='stages, counted from 1 (default: all)'
    )
    parser.add_argument(
        '--scale',
        choices=('root', 'log'),
        default='root',
        help="scale of the figure's colours: root, which is map^0.2 / max as VMamba has it (default), or log, which is "
        'log10(1 + map) / max as RepLKNet has it. The table and erf.npz have no scale',
    )
    add_out_arguments(parser, 'erf')


def run(args: argparse.Namespace) -> None:
    """Measure, and write the results."""
    import numpy as np

    from mmsparx.cli.analyze.figures import draw_fields
    from mmsparx.cli.analyze.memory import check_inputs
    from mmsparx.cli.analyze.results import prepare_folder
    from mmsparx.cli.images import choose_images
    from mmsparx.cli.models import load_models

    out = prepare_folder(args.out, args.images, NAMES, args.force)
    images = choose_images(args.images, args.count, args.seed)
    models = load_models(args.models, args.labels, seed=args.seed, device=args.device)
    stages = [choose_stages(model.at_size(args.size), args.stages) for model in models]
    check_inputs(models, args.batch_size)
    fields = {
        model.label: measure(model, images, chosen, args.batch_size)
        for model, chosen in zip(models, stages, strict=True)
    }
    arrays = {f'{label}.stage{i}': field.map for label, found in fields.items() for i, field in found.items()}
    np.savez_compressed(out / 'erf.npz', **arrays)
    text = report(models, fields, images)
    (out / 'erf.md').write_text(f'# Effective receptive fields\n\n{text}\n', encoding='utf-8')
    draw_fields(models, fields, args.scale, out / 'erf.png')
    sys.stdout.write(f'{text}\n\n{out / "erf.png"}, erf.md and erf.npz are written\n')


def choose_stages(model: 'NamedModel', given: list[int] | None) -> list[int]:
    """The stages to look at, in order; all of a model's by default.

    Raises:
        ValueError: A stage is not there, or the size is not known.
    """
    model.preprocessing.check()
    count = len(model.stage_modules)
    if missing := [stage for stage in given or () if stage > count]:
        raise ValueError(f'--stages: {model.label} has stages 1 to {count}, got {missing[0]}')
    return sorted(set(given or range(1, count + 1)))


def measure(model: 'NamedModel', images: 'Images', stages: list[int], batch_size: int) -> 'dict[int, ReceptiveField]':
    """The fields of a model's stages, by their numbers from 1."""
    from mmsparx.analysis.erf import receptive_fields

    device = next(model.module.parameters()).device
    batches = (x.to(device) for x in images.batches(model.preprocessing, batch_size, model.label))
    found = receptive_fields(model.stages, batches, [stage - 1 for stage in stages])
    return dict(zip(stages, found, strict=True))


def report(models: 'list[NamedModel]', fields: 'dict[str, dict[int, ReceptiveField]]', images: 'Images') -> str:
    """The results as Markdown: the table of squares, and remarks."""
    from mmsparx.analysis.erf import SHARES, centred_square
    from mmsparx.cli.analyze.results import table

    rows = [('model', 'stage', 'map', *(f'{share:.0%}' for share in SHARES))]
    notes = []
    for model in models:
        height, width = model.preprocessing.size
        notes.append(f'{model.label}: {model.weights}, {len(images.paths)} images of {height}x{width}.')
        for stage, field in fields[model.label].items():
            squares = [centred_square(field.map, share) for share in SHARES]
            cells = ['-' if square is None else f'{square[0]} ({square[1]:.2%})' for square in squares]
            rows.append((model.label, stage, f'{field.grid[0]}x{field.grid[1]}', *cells))
            notes += (f'{model.label}, stage {stage}: {problem}.' for problem in _problems(field))
    if images.report:
        notes.append(f'{images.report}.')
    text = (
        'Side in pixels of the smallest centred square that holds more than a share of the field, and its area over '
        "the image's."
    )
    return '\n'.join([text, '', table(rows), '', *(f'- {note}' for note in notes)])


def _problems(field: 'ReceptiveField') -> list[str]:
    """The faults of a field, in clauses."""
    found = []
    every = field.images + field.not_finite
    if field.not_finite:
        found.append(f'{field.not_finite} of {every} images give values that are not finite, and are left out')
    if field.dead and field.dead == field.images:
        found.append('the unit at the centre is dead: its score is 0 for every image, and so is the field')
    elif field.dead:
        found.append(f'the unit at the centre is dead for {field.dead} of {field.images} images, whose fields are 0')
    return found


COMMAND = Command('erf', 'measure effective receptive fields', add_arguments, run, DESCRIPTION)
