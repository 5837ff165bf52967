# A small UperNet, from scratch, for smoke tests and checks on a CPU. It is not from the paper.
_base_ = ['./upernet_sparx.py', '../../../_base_/mini_arch.py']

channels = _base_.mini_arch.channels
norm_cfg = dict(type='BN')

model = dict(
    data_preprocessor=dict(size=None, size_divisor=32),
    backbone=dict(arch=_base_.mini_arch, norm_cfg=norm_cfg),
    decode_head=dict(in_channels=channels, channels=64, dropout_ratio=0.0, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=channels[2], channels=64, dropout_ratio=0.0, norm_cfg=norm_cfg),
)
