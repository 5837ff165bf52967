"""The benchmarks are run from the repository's root, where Python finds them as a package; so are their tests."""

import sys
from pathlib import Path

# Last, so that an installed mmsparx stays the one that is tested.
sys.path.append(str(Path(__file__).parents[2]))
