"""Hooks, registered as `mmsparx.Name`."""

from mmsparx.engine.hooks.checkpoint import SafeCheckpointHook
from mmsparx.engine.hooks.iteration_seed import IterationSeedHook
from mmsparx.engine.hooks.label_check import LabelCheckHook
from mmsparx.engine.hooks.nan_guard import NaNGuardHook
from mmsparx.engine.hooks.strict_load import StrictLoadHook

__all__ = ['IterationSeedHook', 'LabelCheckHook', 'NaNGuardHook', 'SafeCheckpointHook', 'StrictLoadHook']
