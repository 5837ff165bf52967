"""The commands of `mmsparx`, or `python -m mmsparx`."""

import os
import sys
from collections.abc import Sequence

# These imports must work where torch is broken or missing: a command imports the rest
# when it runs.
from mmsparx.cli.parser import make_parser
from mmsparx.cli.running import finish


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name; returns the exit status."""
    as_module = os.path.basename(sys.argv[0]) == '__main__.py'
    parser = make_parser('python -m mmsparx' if as_module else 'mmsparx')
    return finish(parser.parse_args(argv))


if __name__ == '__main__':
    sys.exit(main())
