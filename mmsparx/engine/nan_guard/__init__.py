"""Handling of a loss or a gradient that is not finite: `NaNGuardHook` and its parts.

`diagnose` watches an iteration module by module, `replay` runs one again without a step, `reproducer` writes down what
describes it, and `rewind` goes back to a good checkpoint.
"""

from mmsparx.engine.nan_guard.hook import NaNGuardHook

__all__ = ['NaNGuardHook']
