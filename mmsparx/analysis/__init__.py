"""Tools that look at any network."""

from mmsparx.analysis.complexity import Complexity, complexity, two_stage_complexity
from mmsparx.analysis.handles import jit_handles

__all__ = ['Complexity', 'complexity', 'jit_handles', 'two_stage_complexity']
