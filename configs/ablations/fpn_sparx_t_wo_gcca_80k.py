# The paper reports 48.1 mIoU on ADE20K.
# Fitted: the channels of the values and of the Conv-FFN.
_base_ = ['./_base_/fpn_80k.py', './_base_/wo_gcca.py']

model = dict(backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg), neck=dict(in_channels=_base_.channels))
