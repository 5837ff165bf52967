# The paper reports 49.3 mIoU on ADE20K.
# Determined.
_base_ = ['./_base_/fpn_80k.py', './_base_/dgc.py']

model = dict(backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg), neck=dict(in_channels=_base_.channels))
