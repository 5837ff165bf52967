"""`mmsparx train`, and tools/train.py."""

import argparse

from mmsparx.cli.arguments import FILES, add_run_arguments, completed
from mmsparx.cli.running import Command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a training."""
    add_run_arguments(parser)
    resume = parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from a checkpoint; without a name, from the newest whole one in the work directory',
    )
    completed(resume, FILES)
    parser.add_argument('--amp', action='store_true', help='train in automatic mixed precision (needs an accelerator)')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by the total batch over the config's auto_scale_lr.base_batch_size",
    )
    parser.add_argument(
        '--no-pretrained',
        action='store_true',
        help="start from scratch instead of the pretrained weights that the config's model names anywhere",
    )
    parser.add_argument(
        '--may-differ',
        nargs='+',
        metavar='PATTERN',
        help="names of weights, with *, that need not match between load_from and the model, such as 'head.fc.*' for "
        'other classes',
    )


def run(args: argparse.Namespace) -> None:
    """Train."""
    from mmsparx.engine.training import run_training

    run_training(args)


COMMAND = Command(
    'train', 'train what a config describes: detection, segmentation or classification', add_arguments, run
)
