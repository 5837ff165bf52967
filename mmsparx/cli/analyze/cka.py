"""`mmsparx analyze cka`: similarity of layers."""

import argparse
import sys
from typing import TYPE_CHECKING

from mmsparx.cli.analyze.arguments import add_image_arguments, add_model_arguments, add_out_arguments
from mmsparx.cli.running import Command

if TYPE_CHECKING:  # the command has to start where torch is broken
    from torch import nn

    from mmsparx.analysis.cka import Similarity
    from mmsparx.cli.images import Images
    from mmsparx.cli.named_model import NamedModel

DESCRIPTION = """\
Measure how similar the layers of a network are, as in Fig. 5 of the paper: linear CKA between what the layers give for
the same images, over minibatches.

Writes cka.png (a heat map for each model, layers x layers, in one colour scale), cka.md (the mean over pairs of
different layers, which the paper's claim is about) and cka.npz (the matrices). Of networks of this package the features
are what the token mixers give; of other models, what the modules give that --layers names.

    mmsparx analyze cka --model sparx_mamba_t_in1k sparx.pth --model vmamba_t_in1k published --images val/ --count 1024
    mmsparx analyze cka --model convnext_tiny published --layers 'stages.*.blocks.*.conv_dw' --images val/ --count 1024
"""
NAMES = ('cka.npz', 'cka.md', 'cka.png')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add models, images and features."""
    add_model_arguments(parser)
    add_image_arguments(parser, count=1024, batch_size=32, least=4)
    features = parser.add_mutually_exclusive_group()
    features.add_argument(
        '--features',
        choices=('mixer', 'scan'),
        default='mixer',
        help='for networks of this package: the output of each token mixer (default), or the input of its output '
        "projection, which is the scan's output after its norm or gate",
    )
    features.add_argument(
        '--layers',
        nargs='+',
        metavar='PATTERN',
        help="names of modules with * for any text, as 'layers.*.blocks.?' for the blocks of a Swin of timm. They are "
        'compared in the order of the model. The option is needed for models without a network of this package',
    )
    add_out_arguments(parser, 'cka')


def run(args: argparse.Namespace) -> None:
    """Measure, and write the results."""
    import numpy as np

    from mmsparx.cli.analyze.figures import draw_similarities
    from mmsparx.cli.analyze.memory import check_inputs
    from mmsparx.cli.analyze.results import prepare_folder
    from mmsparx.cli.images import choose_images
    from mmsparx.cli.models import load_models

    out = prepare_folder(args.out, args.images, NAMES, args.force)
    # Images are shuffled: in the order of their paths, a minibatch has one or two classes, and another similarity.
    images = choose_images(args.images, args.count, args.seed, shuffled=True)
    models = load_models(args.models, args.labels, seed=args.seed, device=args.device)
    inputs = args.layers is None and args.features == 'scan'
    for model in models:
        model.at_size(args.size).preprocessing.check()
    check_inputs(models, args.batch_size)
    layers = [choose_layers(model, args.layers, inputs) for model in models]
    found = {
        model.label: measure(model, chosen, images, args.batch_size, inputs)
        for model, chosen in zip(models, layers, strict=True)
    }
    arrays = {}
    for label, similarity in found.items():
        arrays |= {label: similarity.matrix.numpy(), f'{label}.layers': np.array(similarity.names)}
    np.savez_compressed(out / 'cka.npz', **arrays)
    text = report(models, found, images)
    (out / 'cka.md').write_text(f'# Similarity of layers\n\n{text}\n', encoding='utf-8')
    draw_similarities(models, found, out / 'cka.png')
    sys.stdout.write(f'{text}\n\n{out / "cka.png"}, cka.md and cka.npz are written\n')


def choose_layers(model: 'NamedModel', patterns: list[str] | None, inputs: bool) -> 'dict[str, nn.Module]':
    """The modules whose outputs, or inputs, are compared, by the names to show.

    Args:
        model: Model.
        patterns: Patterns of names of modules; None for the token mixers of a network of this package.
        inputs: Whether to choose the mixers' output projections, for what they are given.

    Raises:
        ValueError: There are fewer than two such modules, or a mixer has no scan.
    """
    from fnmatch import fnmatchcase

    if patterns is not None:
        named = list(model.module.named_modules())[1:]  # without the model itself
        found = {}
        for pattern in patterns:
            matched = {name: each for name, each in named if fnmatchcase(name, pattern)}
            if not matched:
                names = ', '.join(name for name, _ in named[:5])
                raise ValueError(f'--layers: {pattern!r} fits no module of {model.label}; they are called {names}, ...')
            found |= matched
        in_order = {name: each for name, each in named if name in found}
    elif model.backbone is None:
        raise ValueError(
            f'{model.label} is no network of mmsparx: name the modules to compare with --layers, as in '
            "'stages.*.blocks.*'"
        )
    else:
        in_order = {
            f'{i}.{j}': _projection(model, layer.mixer) if inputs else layer.mixer
            for i, stage in enumerate(model.backbone.stages, 1)
            for j, layer in enumerate(stage.layers)
        }
    if len(in_order) < 2:
        raise ValueError(f'{model.label}: expected at least two layers to compare, got {", ".join(in_order)}')
    return in_order


def _projection(model: 'NamedModel', mixer: 'nn.Module') -> 'nn.Module':
    """The output projection of a mixer that has a scan."""
    if not hasattr(mixer, 'scan'):
        raise ValueError(f'--features scan: {model.label} has {type(mixer).__name__}, which has no scan; leave it out')
    return mixer.out_proj


def measure(
    model: 'NamedModel', layers: 'dict[str, nn.Module]', images: 'Images', batch_size: int, inputs: bool
) -> 'Similarity':
    """The similarity of a model's layers."""
    from mmsparx.analysis.cka import layer_similarity

    device = next(model.module.parameters()).device
    batches = (x.to(device) for x in images.batches(model.preprocessing, batch_size, model.label))
    return layer_similarity(model.forward, layers, batches, inputs)


def report(models: 'list[NamedModel]', found: 'dict[str, Similarity]', images: 'Images') -> str:
    """The results as Markdown: a row for each model, and remarks."""
    from mmsparx.cli.analyze.results import table

    rows = [('model', 'layers', 'mean off-diagonal CKA', 'images', 'minibatches')]
    notes = []
    for model in models:
        similarity = found[model.label]
        mean = f'{similarity.mean_off_diagonal:.3f}'
        rows.append((model.label, len(similarity.names), mean, similarity.images, similarity.minibatches))
        height, width = model.preprocessing.size
        notes.append(f'{model.label}: {model.weights}, images of {height}x{width}.')
        if similarity.left_out:
            notes.append(
                f'{model.label}: the last minibatch would be of fewer than 4 images, and is left out: '
                f'{similarity.left_out}.'
            )
        if similarity.constant:
            notes.append(
                f'{model.label}: without similarity, as they give the same for all images: '
                f'{", ".join(similarity.constant)}.'
            )
    if images.report:
        notes.append(f'{images.report}.')
    text = (
        'Linear CKA between layers, by the unbiased estimate over minibatches; the mean is over pairs of different '
        'layers.'
    )
    return '\n'.join([text, '', table(rows), '', *(f'- {note}' for note in notes)])


COMMAND = Command('cka', 'measure how similar layers are', add_arguments, run, DESCRIPTION)
