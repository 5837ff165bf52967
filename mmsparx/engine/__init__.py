"""What the command-line tools and configs add to mmengine's runner."""

from mmsparx.engine.hooks import IterationSeedHook, NaNGuardHook, SafeCheckpointHook, StrictLoadHook

__all__ = ['IterationSeedHook', 'NaNGuardHook', 'SafeCheckpointHook', 'StrictLoadHook']
