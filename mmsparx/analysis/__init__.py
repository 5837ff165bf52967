"""Tools that look at any network."""

from mmsparx.analysis.complexity import Complexity, complexity, two_stage_complexity

__all__ = ['Complexity', 'complexity', 'two_stage_complexity']
