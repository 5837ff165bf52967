# Mask R-CNN over a backbone, which the leaves name.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
    '../../../_base_/sparx_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    )
)

default_hooks = dict(checkpoint=dict(type='mmsparx.SafeCheckpointHook', interval=1, max_keep_ckpts=3))
