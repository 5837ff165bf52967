# The paper reports a top-1 accuracy of 83.6 on ImageNet-1K's validation set.
# Determined by VMamba's published weights.
_base_ = [
    './_base_/models/classifier.py',
    '../_base_/vmamba_s.py',
    './_base_/datasets/imagenet_crop875.py',
    './_base_/schedules/imagenet_310e.py',
]

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1], style='vmamba'))
