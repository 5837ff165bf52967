"""`mmsparx publish`, and tools/model_converters/publish.py."""

import argparse
import sys

from mmsparx.cli.arguments import FILES, add_weight_arguments, completed
from mmsparx.cli.running import Command

DESCRIPTION = """\
Strip a checkpoint to what others need, and put its SHA-256 into its name: name-<first digits>.pth.

The weights are kept, and of the meta data the dataset's classes and colours; optimizer, history, config and paths are
not.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a publication."""
    completed(parser.add_argument('source', help='checkpoint, or its address'), FILES)
    target = parser.add_argument(
        'target',
        nargs='?',
        help='file to write, without the digits: .pth, .pt or .safetensors (default: beside the source)',
    )
    completed(target, FILES)
    add_weight_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Publish, and say the file and its SHA-256."""
    from mmsparx.weights.convert import publish

    path, digest = publish(args.source, args.target, weights=args.weights, force=args.force)
    sys.stdout.write(f'{path}\nSHA-256 {digest}\n')


COMMAND = Command('publish', 'strip a checkpoint to the weights that others need', add_arguments, run, DESCRIPTION)
