"""What a trained network sees: `mmsparx infer` as a script."""

import sys

from mmsparx.cli.infer import COMMAND

if __name__ == '__main__':
    sys.exit(COMMAND.main())
