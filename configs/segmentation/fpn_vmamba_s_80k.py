# The paper reports 49.4 mIoU on ADE20K.
# Determined by VMamba's published weights.
_base_ = ['./_base_/models/fpn.py', '../_base_/vmamba_s.py', './_base_/schedules/ade20k_80k.py']

model = dict(backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg), neck=dict(in_channels=_base_.channels))
