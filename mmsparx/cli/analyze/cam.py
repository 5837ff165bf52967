"""`mmsparx analyze cam`: class activation maps, and feature maps."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mmsparx.cli.analyze.arguments import add_model_arguments, add_out_arguments
from mmsparx.cli.arguments import FOLDERS, at_least, completed
from mmsparx.cli.running import Command

if TYPE_CHECKING:  # the command has to start where torch is broken
    from torch import Tensor, nn

    from mmsparx.cli.images import Images
    from mmsparx.cli.named_model import NamedModel

# Images in cam.png; overlays are written for all.
SHOWN = 24
DESCRIPTION = """\
Draw where in an image the evidence for a class lies, by Grad-CAM, for classifiers, detectors and segmenters; or, with
--features, what each stage makes of an image.

Writes an overlay for each image, cam.png (up to 24 of them with their images) and cam.md (classes and scores). What is
shown is the evidence for a score: of a classifier, the logit of the class; of a segmenter, the sum of its logits over
the pixels that are predicted to be of it; of a detector, the sum of the scores of its detections. Images are prepared
by the model's test pipeline. Needs grad-cam: pip install 'mmsparx[analysis]'; --features does not.

    mmsparx analyze cam --model sparx_mamba_t_in1k published --images photos/
    mmsparx analyze cam --model mask_rcnn_sparx_t_1x detector.pth --images street/ --class person
    mmsparx analyze cam --model my_config.py weights.pth --images photos/ --features --channels 8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add model, images, layer, class, and features."""
    add_model_arguments(parser, several=False)
    images = parser.add_argument(
        '--images', required=True, metavar='FOLDER', help='folder of images, also in its subfolders'
    )
    completed(images, FOLDERS)
    parser.add_argument(
        '--count',
        type=at_least(1),
        default=8,
        metavar='N',
        help='number of images, drawn by --seed (default: %(default)s)',
    )
    parser.add_argument(
        '--layer', metavar='NAME', help='name of the module whose output is used (default: the last stage)'
    )
    parser.add_argument(
        '--class',
        dest='label',
        metavar='CLASS',
        help='name or number of the class (default: the predicted class of each image)',
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='SCORE',
        help='score above which detections of a detector count (default: %(default)s)',
    )
    parser.add_argument(
        '--features', action='store_true', help='draw the outputs of the stages, instead of class activations'
    )
    parser.add_argument(
        '--channels',
        type=at_least(1),
        default=6,
        metavar='N',
        help='with --features, number of channels to draw of each stage, those with the largest means (default: '
        '%(default)s)',
    )
    add_out_arguments(parser, 'cam')


def run(args: argparse.Namespace) -> None:
    """Draw class activations or features, and write them."""
    from mmsparx.cli.analyze.results import prepare_folder
    from mmsparx.cli.images import choose_images
    from mmsparx.cli.models import load_models

    if not args.features:
        import mmsparx.analysis.cam  # noqa: F401  (says what is missing before a model is built)
    names = ('features',) if args.features else ('overlays', 'cam.png', 'cam.md')
    if len(args.models) > 1:
        raise ValueError(f'--model: expected one model, got {len(args.models)}; run the command for each')
    out = prepare_folder(args.out, args.images, names, args.force)
    images = choose_images(args.images, args.count, args.seed)
    (model,) = load_models(args.models, seed=args.seed, device=args.device)
    model.module.requires_grad_(False)
    draw = draw_features if args.features else draw_activations
    sys.stdout.write(f'{draw(model, images, args, out)}\n')


def draw_activations(model: 'NamedModel', images: 'Images', args: argparse.Namespace, out: Path) -> str:
    """Write the overlays, their sheet and their table; returns the table."""
    from mmsparx.analysis.cam import class_activation
    from mmsparx.cli.analyze.overlays import Overlay, draw_sheet, write_image
    from mmsparx.cli.analyze.results import table
    from mmsparx.cli.analyze.subjects import class_index, class_name, prepare, score_of
    from mmsparx.cli.progress import shown
    from mmsparx.engine.outputs import distinct_stems

    name, layer = choose_layer(model, args.layer)
    wanted = None if args.label is None else class_index(model, args.label)
    files = [path.relative_to(images.folder).as_posix() for path in images.paths]
    stems = distinct_stems(files)
    rows, overlays, empty, refused = [('image', 'class', 'score')], [], [], []
    for path, file in zip(shown(images.paths, 'class activations'), files, strict=True):
        subject = prepare(model, path)
        if subject is None:
            refused.append(file)
            continue
        score = score_of(model, subject, wanted, args.score_thr)
        if score is None:
            rows.append((file, '-' if wanted is None else class_name(model, wanted), 'nothing seen'))
            continue
        to_map = _to_map(model, tuple(subject.x.shape[2:]))
        with model.scope(), stages_named(model):
            activation = class_activation(model.module, layer, subject.x, score.function, to_map)
        height, width = subject.image.shape[:2]
        title = class_name(model, score.label)
        overlay = Overlay(file, f'{title}\n{score.text}', subject.image, activation[:height, :width])
        write_image(out / 'overlays' / f'{stems[file]}.png', overlay.blended)
        overlays.append(overlay)
        rows.append((file, title, score.text))
        if not activation.any():
            empty.append(file)
    notes = [f'{model.label}: {model.weights}. Layer: {name}.']
    if empty:
        notes.append(f'Nothing in the layer speaks for the class, or all of it evenly, in {", ".join(empty)}.')
    notes += not_shown(images, refused)
    text = '\n'.join([table(rows), '', *(f'- {note}' for note in notes)])
    (out / 'cam.md').write_text(f'# Class activations\n\n{text}\n', encoding='utf-8')
    if not overlays:
        return f'{text}\n\nNothing is seen in any image, and no overlay is written. A lower --score-thr sees more'
    draw_sheet(overlays[:SHOWN], f'{model.label}, {model.weights}, {name}', out / 'cam.png')
    return f'{text}\n\n{out / "cam.png"}, cam.md and overlays are written'


def draw_features(model: 'NamedModel', images: 'Images', args: argparse.Namespace, out: Path) -> str:
    """Write a figure of the stages' maps for each image; returns what was written."""
    import torch

    from mmsparx.cli.analyze.overlays import draw_stages
    from mmsparx.cli.analyze.subjects import prepare
    from mmsparx.cli.progress import shown
    from mmsparx.engine.outputs import distinct_stems

    files = [path.relative_to(images.folder).as_posix() for path in images.paths]
    stems = distinct_stems(files)
    refused = []
    for path, file in zip(shown(images.paths, 'features'), files, strict=True):
        subject = prepare(model, path)
        if subject is None:
            refused.append(file)
            continue
        with torch.no_grad():
            maps = model.stages(subject.x)
        target = out / 'features' / f'{stems[file]}.png'
        draw_stages(subject, maps, args.channels, f'{file}: {model.label}, {model.weights}', target)
    count = len(files) - len(refused)
    return '\n'.join([f'Figures of {count} images are written to {out / "features"}.', *not_shown(images, refused)])


def not_shown(images: 'Images', refused: list[str]) -> list[str]:
    """Sentences about images that were passed over: unreadable ones, and those that the pipeline refuses.

    Raises:
        ValueError: The pipeline refuses all of them.
    """
    from mmsparx.cli.images import passed_over

    if len(refused) == len(images.paths):
        raise ValueError(f'--images: OpenCV can resize none of the {len(refused)} images, such as {refused[0]}')
    notes = [f'{images.report}.'] if images.report else []
    return [*notes, f'{passed_over(refused, "cannot be resized by OpenCV")}.'] if refused else notes


@contextmanager
def stages_named(model: 'NamedModel') -> 'Iterator[None]':
    """Name the option for the layer, and the stages, in errors about a layer."""
    from mmsparx.analysis.cam import LayerError

    try:
        yield
    except LayerError as error:
        hint = ''
        with suppress(ValueError):  # of a model that has no stages
            hint = f'. The stages are {", ".join(name for name, _ in model.stage_modules)}'
        raise ValueError(f'--layer: {error}{hint}') from error


def choose_layer(model: 'NamedModel', name: str | None) -> 'tuple[str, nn.Module]':
    """The module whose output is looked at, with its name.

    By default it is the last stage. Of a vision transformer that classifies by a token, the last block has no gradient
    for other tokens, and its first norm is taken.

    Raises:
        ValueError: There is no module of that name, or no stage to take by default.
    """
    import difflib

    known = dict(model.module.named_modules())
    if name is None:
        name, module = model.stage_modules[-1]
        by_token = getattr(model.module, 'global_pool', None) == 'token'
        return (f'{name}.norm1', module.norm1) if by_token and hasattr(module, 'norm1') else (name, module)
    if name not in known or not name:
        near = difflib.get_close_matches(name, known)
        raise ValueError(f'--layer: {model.label} has no module {name!r}; nearest: {", ".join(near) or "none"}')
    return name, known[name]


def _to_map(model: 'NamedModel', size: tuple[int, int]) -> 'Callable[[Tensor], Tensor]':
    """A function that makes maps (B, C, h, w) of what a layer of timm's gives: channels last, or tokens."""
    prefix = getattr(model.module, 'num_prefix_tokens', 0)
    last = getattr(model.module, 'output_fmt', 'NCHW') == 'NHWC'

    def to_map(y: 'Tensor') -> 'Tensor':
        if y.dim() == 4 and last:
            return y.permute(0, 3, 1, 2)
        if y.dim() == 3 and model.config is None:
            tokens = y[:, prefix:].transpose(1, 2)
            height = round((tokens.shape[2] * size[0] / size[1]) ** 0.5)
            if height and tokens.shape[2] % height == 0:
                return tokens.unflatten(2, (height, -1))
        return y

    return to_map


COMMAND = Command('cam', 'draw class activations, or what the stages give', add_arguments, run, DESCRIPTION)
