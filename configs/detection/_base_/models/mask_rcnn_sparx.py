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

# A resumed run draws what an uninterrupted one would have drawn.
custom_hooks = [dict(type='mmsparx.IterationSeedHook')]

# CheckpointHook deletes an old file before it writes the new one: with two or more kept, one is
# always whole.
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=3))
