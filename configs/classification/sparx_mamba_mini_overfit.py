# A check, not a recipe: a small network from scratch overfits a handful of images, so that a fault in data, model or
# evaluation shows within minutes on a CPU. It trains and evaluates on the same images: those of data_root/train, a
# folder for each of num_classes classes.
_base_ = [
    './_base_/models/sparx_mamba_mini.py',
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    './_base_/schedules/mini.py',
]

max_iters = 200
num_classes = 14

model = dict(head=dict(num_classes=num_classes))
data_preprocessor = dict(num_classes=num_classes)

pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=144, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=128),
    dict(type='PackInputs'),
]
dataset = dict(
    _delete_=True,
    type='CustomDataset',
    data_root='data/imagenet',
    data_prefix=dict(img_path='train'),
    pipeline=pipeline,
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler'),
    dataset=dataset,
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator

train_cfg = dict(by_epoch=False, max_iters=max_iters, val_interval=100)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=1e-6, by_epoch=False, begin=0, end=max_iters),
]
