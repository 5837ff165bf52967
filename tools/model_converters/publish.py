"""Strip a checkpoint for publication: `mmsparx publish` as a script."""

import sys

from mmsparx.cli.publish import COMMAND

if __name__ == '__main__':
    sys.exit(COMMAND.main())
