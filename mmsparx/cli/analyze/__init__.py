"""`mmsparx analyze`: what the paper looks at its networks by, as commands for any model."""

import argparse

from mmsparx.cli.analyze import cam, cka, erf

COMMANDS = (erf.COMMAND, cka.COMMAND, cam.COMMAND)


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `analyze`, with a command for each analysis, to the commands of a parser."""
    text = 'look at models: receptive fields, similarity of layers, class activations'
    parser = commands.add_parser('analyze', help=text, description=f'{text[0].upper()}{text[1:]}.', allow_abbrev=False)
    analyses = parser.add_subparsers(title='analyses', metavar='ANALYSIS', required=True)
    for command in COMMANDS:
        command.add_to(analyses)
