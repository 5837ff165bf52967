# The paper reports 50.6 mIoU on ADE20K, and 51.2 with the multi-scale test.
# Determined by VMamba's published weights; the paper's 1038 GFLOPs are 1028 in VMamba's own table.
_base_ = ['./_base_/models/upernet.py', '../_base_/vmamba_s.py', './_base_/schedules/ade20k_160k.py']

model = dict(
    backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
