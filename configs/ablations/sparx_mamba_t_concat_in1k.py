# The paper reports a top-1 accuracy of 82.8 on ImageNet-1K's validation set.
# Fitted: the norm and the hidden channels of the Conv-FFN.
_base_ = ['./_base_/in1k.py', './_base_/concat.py']

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1]))
