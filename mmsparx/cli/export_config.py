"""`mmsparx export-config`."""

import argparse
import sys

from mmsparx.cli.arguments import CONFIG_NAMES, FILES, completed
from mmsparx.cli.running import Command
from mmsparx.zoo import export_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of an export."""
    completed(parser.add_argument('name', help='name of the config, as `mmsparx configs` lists it'), CONFIG_NAMES)
    target = parser.add_argument(
        'target', nargs='?', help='file or folder to write to (default: here, under its own name)'
    )
    completed(target, FILES)
    parser.add_argument('--force', action='store_true', help='overwrite an existing file')


def run(args: argparse.Namespace) -> None:
    """Export, and say where to."""
    sys.stdout.write(f'{export_config(args.name, args.target, args.force)}\n')


COMMAND = Command(
    'export-config',
    'write a shipped config as one file, which needs nothing but the package',
    add_arguments,
    run,
)
