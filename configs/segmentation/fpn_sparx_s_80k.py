# The paper reports 50.5 mIoU on ADE20K.
# Determined by the published weights.
_base_ = ['./_base_/models/fpn_sparx.py', '../_base_/sparx_mamba_s.py', './_base_/schedules/ade20k_80k.py']

model = dict(
    backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg, drop_path_rate=0.3),
    neck=dict(in_channels=_base_.channels),
)
