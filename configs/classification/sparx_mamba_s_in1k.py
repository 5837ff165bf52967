# The paper reports a top-1 accuracy of 84.2 on ImageNet-1K's validation set.
# Determined by the published weights.
_base_ = [
    './_base_/models/classifier.py',
    '../_base_/sparx_mamba_s.py',
    './_base_/datasets/imagenet_crop95.py',
    './_base_/schedules/imagenet_310e.py',
]

model = dict(
    backbone=dict(**_base_.backbone, drop_path_rate=0.3),
    head=dict(in_channels=_base_.channels[-1]),
)
