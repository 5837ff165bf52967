# The paper reports a top-1 accuracy of 83.1 on ImageNet-1K's validation set.
# Fitted: the aggregator stands in front of the block, whose inner channels are C instead of Mamba's 2C; does not
# agree: 25.53 M parameters round to 26, where the paper prints 25.
_base_ = [
    './_base_/models/classifier.py',
    '../_base_/sparx_mamba_t_bi_ssm.py',
    './_base_/datasets/imagenet_crop90.py',
    './_base_/schedules/imagenet_310e.py',
]

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1], style='vmamba'))
