# The paper reports no result for VMamba-B with this schedule.
# Determined by VMamba's published weights.
_base_ = ['./_base_/models/mask_rcnn.py', '../_base_/vmamba_b.py', './_base_/schedules/coco_3x.py']

model = dict(backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg), neck=dict(in_channels=_base_.channels))
