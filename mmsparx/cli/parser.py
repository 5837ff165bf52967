"""The parser of all commands."""

import argparse

from mmsparx import doctor
from mmsparx.cli import (
    analyze,
    check_data,
    completion,
    configs,
    convert,
    export,
    export_config,
    infer,
    publish,
    test,
    train,
)
from mmsparx.version import __version__

DESCRIPTION = """\
SparX vision backbones for OpenMMLab: train, test and look at them. `mmsparx COMMAND --help` has the arguments of a
command. The exit status is 0 if all is well, 1 after an error, 2 for wrong arguments, and 130 after Ctrl-C.
"""


def make_parser(prog: str = 'mmsparx') -> argparse.ArgumentParser:
    """The parser; `run` in what it parses is the function of a command.

    Args:
        prog: Name of the program in usage lines.
    """
    parser = argparse.ArgumentParser(prog=prog, description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument('--version', action='version', version=f'mmsparx {__version__}')
    parser.set_defaults(make_parser=make_parser)  # for the command that writes completions
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    for module in (train, test, infer):
        module.COMMAND.add_to(commands)
    analyze.add_commands(commands)
    for module in (export, convert, publish, check_data, configs, export_config):
        module.COMMAND.add_to(commands)
    doctor.add_command(commands)
    completion.COMMAND.add_to(commands)
    return parser
