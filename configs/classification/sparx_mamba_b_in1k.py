# The paper reports a top-1 accuracy of 84.5 on ImageNet-1K's validation set.
_base_ = [
    './_base_/models/sparx_mamba_b.py',
    './_base_/datasets/imagenet_crop95.py',
    './_base_/schedules/imagenet_310e.py',
]
