# The paper reports a top-1 accuracy of 83.5 on ImageNet-1K's validation set.
# Determined by the published weights.
_base_ = [
    './_base_/models/classifier.py',
    '../_base_/sparx_mamba_t.py',
    './_base_/datasets/imagenet_crop90.py',
    './_base_/schedules/imagenet_310e.py',
]

model = dict(
    backbone=dict(**_base_.backbone, drop_path_rate=0.2),
    head=dict(in_channels=_base_.channels[-1]),
)
