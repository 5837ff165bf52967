# ImageNet-1K as for SparX-Mamba-T.
_base_ = [
    '../../classification/_base_/models/classifier.py',
    '../../classification/_base_/datasets/imagenet_crop90.py',
    '../../classification/_base_/schedules/imagenet_310e.py',
]
