# A small classifier, from scratch, for smoke tests and small data on a CPU. It is not from the paper.
_base_ = ['./classifier.py', '../../../_base_/mini_arch.py']

model = dict(
    backbone=dict(type='mmsparx.SparXMamba', arch=_base_.mini_arch, norm_cfg=dict(type='BN')),
    head=dict(in_channels=_base_.mini_arch.channels[-1]),
    train_cfg=None,
)
