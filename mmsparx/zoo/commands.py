"""`python -m mmsparx configs` and `python -m mmsparx export-config`."""

import argparse
import sys
from collections.abc import Callable

from mmsparx.zoo.shipped import export_config, list_configs, read_models


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `configs` and `export-config` to the commands of a parser."""
    text = 'list the shipped configs, with what the paper reports for them'
    parser = commands.add_parser('configs', help=text, description=text, allow_abbrev=False)
    parser.add_argument('--task', help='those of one task: ablations, classification, detection or segmentation')
    parser.set_defaults(run=lambda args: run(list_all, args))

    text = 'write a shipped config as one file that needs nothing but the installed package'
    parser = commands.add_parser('export-config', help=text, description=text, allow_abbrev=False)
    parser.add_argument('name', help='as the command configs lists it')
    parser.add_argument('target', nargs='?', help='file or folder to write to (default: here, under its own name)')
    parser.add_argument('--force', action='store_true', help='write over the file if it is there')
    parser.set_defaults(run=lambda args: run(export, args))


def run(command: Callable[[argparse.Namespace], str], args: argparse.Namespace) -> int:
    """Write what a command returns; what a user can mend is a line on stderr, with exit status 1."""
    try:
        sys.stdout.write(command(args) + '\n')
    except ModuleNotFoundError as error:
        extras = "pip install 'mmsparx[det]', 'mmsparx[seg]' or 'mmsparx[cls]'"
        sys.stderr.write(f'mmsparx: {error}. Configs need mmengine and the library that they are of: {extras}\n')
        return 1
    except (OSError, ValueError) as error:
        sys.stderr.write(f'mmsparx: {error}\n')
        return 1
    return 0


def list_all(args: argparse.Namespace) -> str:
    """The configs as a table."""
    configs = list_configs(args.task)
    models = {task: read_models(task) for task in {config.task for config in configs}}
    rows = [('TASK', 'CONFIG', 'THE PAPER REPORTS')]
    rows += [(config.task, config.name, reported(models[config.task].get(config.name))) for config in configs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return '\n'.join([*lines, '', "The figures are the paper's, not measurements of this project."])


def reported(model: dict | None) -> str:
    """The paper's figures in the entry of a metafile."""
    results = [result for result in model['Results'] if result['Source'].startswith('paper')] if model else []
    return ', '.join(f'{name} {value}' for result in results for name, value in result['Metrics'].items())


def export(args: argparse.Namespace) -> str:
    """Where the config was written to."""
    return str(export_config(args.name, args.target, args.force))
