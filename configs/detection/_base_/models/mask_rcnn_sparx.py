# Mask R-CNN over a SparX backbone; the leaves name its size.
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']

# Inferencers unpickle a checkpoint before they build the model, so the scope prefix alone would
# import mmsparx, and with it safe loading of mmengine's checkpoints, too late.
custom_imports = dict(imports=['mmsparx.models'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsparx.SparXMamba',
        out_indices=(0, 1, 2, 3),
        aggregator=dict(type='DMCA', learnable_scale=True),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    )
)

custom_hooks = [
    dict(type='mmsparx.IterationSeedHook'),  # a resumed run draws what an uninterrupted one would have drawn
    dict(type='mmsparx.NaNGuardHook'),  # a loss or gradient that is no number ends the run, and is located
    dict(type='mmsparx.StrictLoadHook'),  # load_from, resuming and testing: weights that match, or an error
]
default_hooks = dict(checkpoint=dict(type='mmsparx.SafeCheckpointHook', interval=1, max_keep_ckpts=3))
