# The paper reports a top-1 accuracy of 83.0 on ImageNet-1K's validation set.
# Determined.
_base_ = ['./_base_/in1k.py', './_base_/m2.py']

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1]))
