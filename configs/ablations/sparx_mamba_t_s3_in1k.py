# The paper reports a top-1 accuracy of 83.2 on ImageNet-1K's validation set.
# Determined.
_base_ = ['./_base_/in1k.py', './_base_/s3.py']

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1]))
