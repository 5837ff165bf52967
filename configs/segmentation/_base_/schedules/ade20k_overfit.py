# This is a check, not a recipe: a small network overfits 99 % of the pixels of a handful of images from scratch, so
# that a fault in data, model or evaluation shows within an hour on a CPU. Details finer than its output, a quarter of
# the resolution, and classes of a few hundred pixels may be missed. It trains and evaluates on the same images: those
# of data_root/images/training.
_base_ = './ade20k_160k.py'

max_iters = 300
scale = (512, 384)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=3, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'), pipeline=test_pipeline
    ),
)
test_dataloader = val_dataloader

# The optimizer has a short memory of the gradients' size: the few pixels of small objects are learned last, with small
# gradients.
optim_wrapper = dict(optimizer=dict(lr=2e-3, betas=(0.9, 0.99)), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=1e-6, by_epoch=False, begin=0, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=50)
default_hooks = dict(checkpoint=dict(interval=50), logger=dict(interval=10))
