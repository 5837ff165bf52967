# The paper reports 49.3 mIoU on ADE20K.
# Determined; does not agree: Table 11 exchanges the GFLOPs of this row and of w/o shortcut.
_base_ = ['./_base_/fpn_80k.py', './_base_/wo_sr.py']

model = dict(backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg), neck=dict(in_channels=_base_.channels))
