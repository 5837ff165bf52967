# The paper reports a top-1 accuracy of 82.7 on ImageNet-1K's validation set.
# Fitted: the channels of the values and of the Conv-FFN.
_base_ = ['./_base_/in1k.py', './_base_/wo_gcca.py']

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1]))
