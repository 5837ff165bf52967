# The paper reports 49.0 mIoU on ADE20K.
# Determined.
_base_ = ['./_base_/fpn_80k.py', './_base_/s3.py']

model = dict(backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg), neck=dict(in_channels=_base_.channels))
