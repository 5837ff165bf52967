# The paper reports 51.8 box AP and 45.8 mask AP on COCO val2017.
# Determined by the published weights.
_base_ = ['./_base_/models/mask_rcnn_sparx.py', '../_base_/sparx_mamba_b.py', './_base_/schedules/coco_3x.py']

model = dict(
    backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg, drop_path_rate=0.45),
    neck=dict(in_channels=_base_.channels),
)
