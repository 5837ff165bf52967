"""What the command-line tools and configs add to mmengine's runner."""

from mmsparx.engine.hooks import IterationSeedHook, SafeCheckpointHook, StrictLoadHook

__all__ = ['IterationSeedHook', 'SafeCheckpointHook', 'StrictLoadHook']
