"""`mmsparx convert`, and tools/model_converters/convert.py."""

import argparse
import sys

from mmsparx.cli.arguments import FILES, add_weight_arguments, completed
from mmsparx.cli.running import Command

DESCRIPTION = """\
Write a file of weights under other names, or in another format, bit for bit.

Takes classification, detection and segmentation files, published ones and one's own. Of a training checkpoint, weights
and meta data are kept.

    mmsparx convert sparx_mamba_tiny_in1k.pth tiny.safetensors --to ours
    mmsparx convert work_dirs/x/epoch_36.pth detector.pth --to published --weights ema
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a conversion."""
    completed(parser.add_argument('source', help='file of weights, or its address'), FILES)
    completed(parser.add_argument('target', help='file to write: .pth, .pt or .safetensors'), FILES)
    parser.add_argument(
        '--to',
        choices=['ours', 'published'],
        help="names to write: this package's or those of the published checkpoints (default: unchanged)",
    )
    add_weight_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Convert, and say what was written and what was not."""
    from mmsparx.weights.convert import convert

    written = convert(args.source, args.target, to=args.to, weights=args.weights, force=args.force)
    sys.stdout.write(f'{args.target}: {len(written.state_dict)} tensors\n')
    if written.left_out:
        sys.stdout.write(f'left out: {", ".join(written.left_out)}\n')


COMMAND = Command('convert', 'write weights under other names or in another format', add_arguments, run, DESCRIPTION)
