# Settings that every config over a SparX backbone adds to its library's default runtime.

# Inferencers unpickle a checkpoint before they build the model, so the scope prefix alone would
# import mmsparx, and with it safe loading of mmengine's checkpoints, too late.
custom_imports = dict(imports=['mmsparx.models'], allow_failed_imports=False)

custom_hooks = [
    dict(type='mmsparx.IterationSeedHook'),  # a resumed run draws what an uninterrupted one would have drawn
    dict(type='mmsparx.NaNGuardHook'),  # a loss or gradient that is no number ends the run, and is located
    dict(type='mmsparx.StrictLoadHook'),  # load_from, resuming and testing: weights that match, or an error
    dict(type='mmsparx.LabelCheckHook'),  # classes and labels that fit the heads, or an error
    dict(type='mmsparx.ScheduleCheckHook'),  # schedules that fit the length of the run, or a warning
]
