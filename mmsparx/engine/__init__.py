"""What the command-line tools and configs add to mmengine's runner."""

from mmsparx.engine.hooks import IterationSeedHook, LabelCheckHook, NaNGuardHook, SafeCheckpointHook, StrictLoadHook

__all__ = ['IterationSeedHook', 'LabelCheckHook', 'NaNGuardHook', 'SafeCheckpointHook', 'StrictLoadHook']
