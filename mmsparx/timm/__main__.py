"""Run a script, such as timm's train.py, validate.py and inference.py, with the networks in timm's registry."""

import os
import runpy
import sys

if len(sys.argv) < 2:
    sys.exit('usage: python -m mmsparx.timm SCRIPT.py [ARGUMENTS ...]')
sys.argv = sys.argv[1:]  # the script finds its own name and arguments
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))  # and its neighbours, as with python SCRIPT.py
runpy.run_path(sys.argv[0], run_name='__main__')
