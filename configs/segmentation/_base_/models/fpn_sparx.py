# Semantic FPN over a SparX backbone; the leaves name its size, and a drop path to start from: that of the published
# runs is not known.
_base_ = [
    'mmseg::_base_/models/fpn_r50.py',
    'mmseg::_base_/default_runtime.py',
    '../../../_base_/sparx_runtime.py',
]

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type='mmsparx.SparXMamba',
        out_indices=(0, 1, 2, 3),
        aggregator=dict(type='DMCA', learnable_scale=False),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    ),
    decode_head=dict(num_classes=150),
)
