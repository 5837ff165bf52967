"""Small hooks, registered as `mmsparx.Name`; `NaNGuardHook` has a package of its own."""

from mmsparx.engine.hooks.iteration_seed import IterationSeedHook
from mmsparx.engine.hooks.label_check import LabelCheckHook
from mmsparx.engine.hooks.safe_checkpoint import SafeCheckpointHook
from mmsparx.engine.hooks.schedule_check import ScheduleCheckHook
from mmsparx.engine.hooks.strict_load import StrictLoadHook
from mmsparx.engine.hooks.unused_outputs import UnusedOutputsHook

__all__ = [
    'IterationSeedHook',
    'LabelCheckHook',
    'SafeCheckpointHook',
    'ScheduleCheckHook',
    'StrictLoadHook',
    'UnusedOutputsHook',
]
