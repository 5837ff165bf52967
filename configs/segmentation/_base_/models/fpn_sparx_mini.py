# A small Semantic FPN, from scratch, for smoke tests and checks on a CPU. It is not from the paper.
_base_ = ['./fpn_sparx.py', '../../../_base_/mini_arch.py']

norm_cfg = dict(type='BN')

model = dict(
    data_preprocessor=dict(size=None, size_divisor=32),
    backbone=dict(arch=_base_.mini_arch, norm_cfg=norm_cfg),
    neck=dict(in_channels=_base_.mini_arch.channels, out_channels=64),
    decode_head=dict(in_channels=[64, 64, 64, 64], channels=64, dropout_ratio=0.0, norm_cfg=norm_cfg),
)
