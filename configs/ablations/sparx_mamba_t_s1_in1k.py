# The paper reports a top-1 accuracy of 83.5 on ImageNet-1K's validation set.
# Fitted: M=4 in stage 3, where the text has M=3.
_base_ = ['./_base_/in1k.py', './_base_/s1.py']

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1]))
