# The paper reports 47.4 box AP and 42.7 mask AP on COCO val2017.
# Determined by VMamba's published weights.
_base_ = ['./_base_/models/mask_rcnn.py', '../_base_/vmamba_t.py', './_base_/schedules/coco_1x.py']

model = dict(backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg), neck=dict(in_channels=_base_.channels))
