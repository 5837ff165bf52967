"""`mmsparx configs`."""

import argparse
import sys

from mmsparx.cli.running import Command
from mmsparx.zoo import list_configs, read_models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the list."""
    parser.add_argument('--task', help='list only one task: ablations, classification, detection or segmentation')


def run(args: argparse.Namespace) -> None:
    """Write the configs as a table."""
    configs = list_configs(args.task)
    models = {task: read_models(task) for task in {config.task for config in configs}}
    rows = [('TASK', 'CONFIG', 'THE PAPER REPORTS')]
    rows += [(config.task, config.name, reported(models[config.task].get(config.name))) for config in configs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    note = "The figures are the paper's, not measurements of this project."
    sys.stdout.write('\n'.join([*lines, '', note]) + '\n')


def reported(model: dict | None) -> str:
    """The paper's figures in the entry of a metafile."""
    results = [result for result in model['Results'] if result['Source'].startswith('paper')] if model else []
    return ', '.join(f'{name} {value}' for result in results for name, value in result['Metrics'].items())


COMMAND = Command('configs', 'list the shipped configs, with what the paper reports for them', add_arguments, run)
