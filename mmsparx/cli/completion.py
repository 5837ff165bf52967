"""`mmsparx completion`: what completes commands, options, files and the names of shipped configs in a shell."""

import argparse
import sys
from collections.abc import Iterator

from mmsparx.cli.arguments import CONFIG_NAMES, CONFIGS, FILES, FOLDERS
from mmsparx.cli.running import Command
from mmsparx.zoo import list_configs

DESCRIPTION = """\
Write the script that lets a shell complete the commands, their options, files, and the names of shipped configs.

    mmsparx completion bash > ~/.local/share/bash-completion/completions/mmsparx
    mmsparx completion zsh > ~/.zfunc/_mmsparx      # ~/.zfunc is in fpath before compinit
    mmsparx completion tcsh > ~/.mmsparx.tcsh       # ~/.tcshrc has: source ~/.mmsparx.tcsh

It needs shtab, the script does not. Write it again after an update.
"""

# Functions that complete shipped configs. bash passes a function the word so far and takes what it prints; the "file"
# in a name makes bash treat the results as names of files.
_PREAMBLES = {
    'bash': """\
_mmsparx_config_names() {{
  compgen -W "{names}" -- "$1"
}}
_mmsparx_config_or_file() {{
  compgen -W "{names}" -- "$1"
  compgen -f -- "$1"
}}
""",
    'zsh': """\
_mmsparx_config_names() {{
  compadd -- {names}
}}
_mmsparx_config_or_file() {{
  compadd -- {names}
  _files
}}
""",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shell."""
    parser.add_argument('shell', choices=['bash', 'zsh', 'tcsh'], help='shell of the script')


def run(args: argparse.Namespace) -> None:
    """Write the script."""
    import shtab

    names = ' '.join(config.name for config in list_configs())
    functions = {'bash': '_mmsparx_config_{}', 'zsh': '_mmsparx_config_{}', 'tcsh': f'`echo {names}`'}
    completions = {
        FILES: shtab.FILE,
        FOLDERS: shtab.DIRECTORY,
        CONFIGS: {shell: text.format('or_file') for shell, text in functions.items()},
        CONFIG_NAMES: {shell: text.format('names') for shell, text in functions.items()},
    }
    parser = args.make_parser()
    for action in _actions(parser):
        if hasattr(action, 'completed_by'):
            action.complete = completions[action.completed_by]
    preambles = {shell: text.format(names=names) for shell, text in _PREAMBLES.items()}
    sys.stdout.write(shtab.complete(parser, args.shell, preamble=preambles) + '\n')


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The arguments of a parser and of its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action


COMMAND = Command('completion', 'write what completes the commands in a shell', add_arguments, run, DESCRIPTION)
