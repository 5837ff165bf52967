# The paper reports 49.2 box AP and 43.9 mask AP on COCO val2017.
# Determined by VMamba's published weights.
_base_ = ['./_base_/models/mask_rcnn.py', '../_base_/vmamba_b.py', './_base_/schedules/coco_1x.py']

model = dict(backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg), neck=dict(in_channels=_base_.channels))
