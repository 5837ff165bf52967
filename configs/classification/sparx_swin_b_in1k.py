# The paper reports a top-1 accuracy of 83.9 on ImageNet-1K's validation set.
# Fitted: the aggregator takes the place of the qkv projection, and the size of the heads; the plan, for which the
# paper gives neither S nor M.
_base_ = [
    './_base_/models/classifier.py',
    '../_base_/sparx_swin_b.py',
    './_base_/datasets/imagenet_crop95.py',
    './_base_/schedules/imagenet_310e.py',
]

model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1], style='swin'))

optim_wrapper = dict(paramwise_cfg=_base_.paramwise_cfg)
