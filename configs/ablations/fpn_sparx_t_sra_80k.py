# The paper reports 49.2 mIoU on ADE20K.
# Fitted: the shared reducer, the heads, and what stays of DMCA.
_base_ = ['./_base_/fpn_80k.py', './_base_/sra.py']

model = dict(backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg), neck=dict(in_channels=_base_.channels))
