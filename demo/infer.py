"""Inference with a trained network: `mmsparx infer` as a script."""

import sys

from mmsparx.cli.infer import COMMAND

if __name__ == '__main__':
    sys.exit(COMMAND.main())
