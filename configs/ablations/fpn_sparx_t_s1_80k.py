# The paper reports 49.7 mIoU on ADE20K.
# Fitted: M=4 in stage 3, where the text has M=3.
_base_ = ['./_base_/fpn_80k.py', './_base_/s1.py']

model = dict(backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg), neck=dict(in_channels=_base_.channels))
