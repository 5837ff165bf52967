"""The commands of `mmsparx`, or `python -m mmsparx`."""

import argparse
import sys
from collections.abc import Sequence

# What is imported here must start where torch is broken or missing: a command imports what it needs
# when it runs.
from mmsparx import doctor
from mmsparx.annotations import commands as annotations
from mmsparx.cli import analyze
from mmsparx.cli.running import finish
from mmsparx.zoo import commands as zoo


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; returns the exit status."""
    parser = argparse.ArgumentParser(prog='python -m mmsparx', allow_abbrev=False)
    commands = parser.add_subparsers(title='commands', metavar='COMMAND', required=True)
    doctor.add_command(commands)
    zoo.add_commands(commands)
    annotations.add_commands(commands)
    analyze.add_commands(commands)
    return finish(parser.parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
