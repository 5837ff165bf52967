"""Tools that look at any network."""

from mmsparx.analysis.complexity import Complexity, complexity, two_stage_complexity
from mmsparx.analysis.handles import jit_handles
from mmsparx.analysis.traffic import Traffic, traffic

__all__ = ['Complexity', 'Traffic', 'complexity', 'jit_handles', 'traffic', 'two_stage_complexity']
