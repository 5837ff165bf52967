"""Run a script, such as timm's train.py, validate.py and inference.py, with the networks in timm's registry."""

import os
import runpy
import sys

_USAGE = 'usage: python -m mmsparx.timm SCRIPT.py [ARGUMENTS ...]'

if len(sys.argv) < 2:
    sys.exit(_USAGE)
if sys.argv[1] in ('-h', '--help'):
    sys.stdout.write(f'{_USAGE}\n\n{__doc__}\n`SCRIPT.py --help` lists the arguments of the script.\n')
    sys.exit()
if not os.path.exists(sys.argv[1]):
    sys.exit(
        f'python -m mmsparx.timm: no script {sys.argv[1]!r} in {os.getcwd()}. Expected the path of a script, such as '
        "train.py of timm's repository"
    )
sys.argv = sys.argv[1:]  # the script finds its own name and arguments
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))  # and its neighbours, as with python SCRIPT.py
runpy.run_path(sys.argv[0], run_name='__main__')
