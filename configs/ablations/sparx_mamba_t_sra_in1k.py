# The paper reports a top-1 accuracy of 83.2 on ImageNet-1K's validation set.
# Fitted: the shared reducer, the heads, and what stays of DMCA.
_base_ = ['./_base_/in1k.py', './_base_/sra.py']

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1]))
