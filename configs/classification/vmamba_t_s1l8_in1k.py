# Not in the paper; VMamba's authors report a top-1 accuracy of 82.6 on ImageNet-1K's validation set.
# Determined by VMamba's published weights.
_base_ = [
    './_base_/models/classifier.py',
    '../_base_/vmamba_t_s1l8.py',
    './_base_/datasets/imagenet_crop875.py',
    './_base_/schedules/imagenet_310e.py',
]

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1], style='vmamba'))
