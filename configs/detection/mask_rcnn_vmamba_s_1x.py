# The paper reports 48.7 box AP and 43.7 mask AP on COCO val2017.
# Determined by VMamba's published weights; does not agree: the paper's 384 GFLOPs, where those of T and B are met.
_base_ = ['./_base_/models/mask_rcnn.py', '../_base_/vmamba_s.py', './_base_/schedules/coco_1x.py']

model = dict(backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg), neck=dict(in_channels=_base_.channels))
