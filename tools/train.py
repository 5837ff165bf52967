"""Train what a config describes: `mmsparx train` as a script."""

import sys

from mmsparx.cli.train import COMMAND

if __name__ == '__main__':
    sys.exit(COMMAND.main())
