"""The parts that the command-line tools and configs add to mmengine's runner.

Importing this package registers the networks as well, so that configs may name them without the scope in the tools.
"""

import mmsparx.models  # noqa: F401  (registers them)
from mmsparx.engine.hooks import (
    IterationSeedHook,
    LabelCheckHook,
    SafeCheckpointHook,
    ScheduleCheckHook,
    StrictLoadHook,
)
from mmsparx.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mmsparx.engine.nan_guard import NaNGuardHook

__all__ = [
    'IterationSeedHook',
    'LabelCheckHook',
    'LayerDecayOptimWrapperConstructor',
    'NaNGuardHook',
    'SafeCheckpointHook',
    'ScheduleCheckHook',
    'StrictLoadHook',
]
