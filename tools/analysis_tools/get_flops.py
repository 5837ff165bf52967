"""Count multiply-adds and parameters: `mmsparx analyze complexity` as a script."""

import sys

from mmsparx.cli.analyze.complexity import COMMAND

if __name__ == '__main__':
    sys.exit(COMMAND.main())
