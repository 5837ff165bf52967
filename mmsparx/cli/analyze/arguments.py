"""Arguments that the analyses share: models, images, and where results go."""

import argparse

from mmsparx.cli.arguments import FILES, FOLDERS, at_least, completed


def add_model_arguments(parser: argparse.ArgumentParser, several: bool = True) -> None:
    """Add `--model`, and what belongs to it; `mmsparx.cli.models.load_models` takes what they give.

    Args:
        parser: Parser to add them to.
        several: Whether there may be several models, with labels.
    """
    text = (
        'config file, name of a shipped config (`mmsparx configs` lists them) or of a model of timm, and a checkpoint: '
        "file, address, or 'published' for the weights that the config or timm names. Without a checkpoint the weights "
        'are random, which figures and tables say'
    )
    if several:
        text += '. Repeat it for several models'
    model = parser.add_argument(
        '--model', dest='models', action='append', nargs='+', required=True, metavar=('NAME', 'CHECKPOINT'), help=text
    )
    completed(model, FILES)
    if several:
        parser.add_argument('--labels', nargs='+', metavar='LABEL', help='labels of the models (default: their names)')
    parser.add_argument(
        '--seed', type=int, default=0, help='seed of random weights and of the choice of images (default: %(default)s)'
    )
    parser.add_argument('--device', help='device, such as cpu or cuda:0 (default: a GPU if there is one)')


def add_image_arguments(parser: argparse.ArgumentParser, count: int | None, batch_size: int, least: int = 1) -> None:
    """Add `--images`, `--count`, `--size` and `--batch-size`.

    Args:
        parser: Parser to add them to.
        count: Default number of images; None for all.
        batch_size: Default number of images in a batch.
        least: Smallest number of images in a batch.
    """
    images = parser.add_argument(
        '--images',
        required=True,
        metavar='FOLDER',
        help='folder of images, also in its subfolders; no labels are needed',
    )
    completed(images, FOLDERS)
    parser.add_argument(
        '--count',
        type=at_least(1),
        default=count,
        metavar='N',
        help=f'number of images, drawn by --seed (default: {"all" if count is None else count})',
    )
    parser.add_argument(
        '--size',
        type=at_least(1),
        metavar='PIXELS',
        help="side of the square inputs (default: that of the model's test pipeline; of a detector or segmenter, the "
        'short side that its pipeline resizes to)',
    )
    parser.add_argument(
        '--batch-size',
        type=at_least(least),
        default=batch_size,
        metavar='N',
        help='number of images at once (default: %(default)s)',
    )


def add_out_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """Add `--out` and `--force`; `out` is the default folder."""
    folder = parser.add_argument(
        '--out', default=out, metavar='FOLDER', help='folder of the results (default: %(default)s)'
    )
    completed(folder, FOLDERS)
    parser.add_argument('--force', action='store_true', help='overwrite existing results')
