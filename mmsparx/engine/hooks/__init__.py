"""Hooks, registered as `mmsparx.Name`."""

from mmsparx.engine.hooks.checkpoint import SafeCheckpointHook
from mmsparx.engine.hooks.iteration_seed import IterationSeedHook
from mmsparx.engine.hooks.nan_guard import NaNGuardHook
from mmsparx.engine.hooks.strict_load import StrictLoadHook

__all__ = ['IterationSeedHook', 'NaNGuardHook', 'SafeCheckpointHook', 'StrictLoadHook']
