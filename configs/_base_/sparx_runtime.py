# Settings that every config over a SparX backbone adds to its library's default runtime.

# Inferencers unpickle a checkpoint before they build the model, so the scope prefix alone would
# import mmsparx, and with it safe loading of mmengine's checkpoints, too late.
custom_imports = dict(imports=['mmsparx.models'], allow_failed_imports=False)

custom_hooks = [
    dict(type='mmsparx.IterationSeedHook'),  # a resumed run draws the same numbers as an uninterrupted one
    dict(type='mmsparx.NaNGuardHook'),  # a loss or gradient that is not finite ends the run, and is located
    dict(type='mmsparx.StrictLoadHook'),  # weights that do not match are an error, in load_from, resuming and testing
    dict(type='mmsparx.LabelCheckHook'),  # classes and labels that do not fit the heads are an error
    dict(type='mmsparx.ScheduleCheckHook'),  # a schedule that does not fit the length of the run is a warning
]
