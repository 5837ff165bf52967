# The paper reports 48.3 mIoU on ADE20K.
# Fitted: the norm and the hidden channels of the Conv-FFN.
_base_ = ['./_base_/fpn_80k.py', './_base_/concat.py']

model = dict(backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg), neck=dict(in_channels=_base_.channels))
