"""Benchmarks and their tests run in the repository's root, where Python finds the package."""

import sys
from pathlib import Path

# The root comes last, so that an installed mmsparx stays the one that is tested.
sys.path.append(str(Path(__file__).parents[2]))
