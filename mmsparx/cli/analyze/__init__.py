"""`mmsparx analyze`: what the paper looks at its networks by, as commands for any model."""

import argparse

from mmsparx.cli.analyze import cam, cka, complexity, erf, resolution, throughput

COMMANDS = tuple(module.COMMAND for module in (erf, cka, cam, resolution, throughput, complexity))


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `analyze`, with a command for each analysis, to the commands of a parser."""
    text = 'analyze models: receptive fields, layers, activations, accuracy over sizes, speed, multiply-adds'
    parser = commands.add_parser('analyze', help=text, description=f'{text[0].upper()}{text[1:]}.', allow_abbrev=False)
    analyses = parser.add_subparsers(title='analyses', metavar='ANALYSIS', required=True)
    for command in COMMANDS:
        command.add_to(analyses)
