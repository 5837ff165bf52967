"""`mmsparx test`, and tools/test.py."""

import argparse

from mmsparx.cli.arguments import FILES, FOLDERS, add_run_arguments, completed
from mmsparx.cli.running import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a test."""
    add_run_arguments(parser)
    completed(parser.add_argument('checkpoint', help='checkpoint file or address'), FILES)
    out = parser.add_argument(
        '--out',
        metavar='FILE.pkl',
        help='write the predictions to a pickle file, label maps without the scores of each class',
    )
    completed(out, FILES)
    show_dir = parser.add_argument(
        '--show-dir',
        metavar='FOLDER',
        help='draw ground truth and predictions into a copy of each image, in this folder; only the best of '
        'overlapping detections is drawn, whatever their classes. Metrics and --out have all predictions',
    )
    completed(show_dir, FOLDERS)
    parser.add_argument(
        '--tta',
        nargs='?',
        const='published',
        metavar='PROTOCOL',
        help="average over sizes and flips, by a protocol of the config's tta_pipelines: published (default) or "
        'original',
    )


def run(args: argparse.Namespace) -> None:
    """Test."""
    from mmsparx.engine.testing import run_test

    run_test(args)


COMMAND = Command(
    'test', 'evaluate a checkpoint as a config describes: detection, segmentation or classification', add_arguments, run
)
