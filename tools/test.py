"""Evaluate a checkpoint as a config describes: `mmsparx test` as a script."""

import sys

from mmsparx.cli.test import COMMAND

if __name__ == '__main__':
    sys.exit(COMMAND.main())
