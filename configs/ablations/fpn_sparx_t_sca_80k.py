# The paper reports 49.2 mIoU on ADE20K.
# Fitted: FcaFormer's class token, depth biases and token scales are left out; the paper's memory is that of
# own_tokens=True.
_base_ = ['./_base_/fpn_80k.py', './_base_/sca.py']

model = dict(backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg), neck=dict(in_channels=_base_.channels))
