"""Write weights under other names, or in another format: `mmsparx convert` as a script."""

import sys

from mmsparx.cli.convert import COMMAND

if __name__ == '__main__':
    sys.exit(COMMAND.main())
