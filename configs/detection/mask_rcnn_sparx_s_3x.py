# The paper reports 51.0 box AP and 45.2 mask AP on COCO val2017.
# Determined by the published weights.
_base_ = ['./_base_/models/mask_rcnn_sparx.py', '../_base_/sparx_mamba_s.py', './_base_/schedules/coco_3x.py']

model = dict(
    backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg, drop_path_rate=0.3),
    neck=dict(in_channels=_base_.channels),
)
