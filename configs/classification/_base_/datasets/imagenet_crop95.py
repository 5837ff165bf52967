# ImageNet-1K with the published augmentation, at 224x224; tested on the centre of images resized to 235 (crop ratio
# 0.95), bicubic. mmpretrain differs from timm, which the published runs used, in two points:
# - noise is drawn before images are normalised and mixed, so it is clipped to 0..255 and mixed with them;
# - the interpolation of RandAugment is drawn once for an image instead of for each operation.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

either = ('bilinear', 'bicubic')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomChoice',
        transforms=[
            [
                dict(
                    type='RandomResizedCrop',
                    scale=224,
                    crop_ratio_range=(0.08, 1.0),
                    aspect_ratio_range=(3 / 4, 4 / 3),
                    backend='pillow',
                    interpolation=interpolation,
                )
            ]
            for interpolation in either
        ],
    ),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandomChoice',
        transforms=[
            [
                dict(
                    type='RandAugment',
                    policies='timm_increasing',
                    num_policies=2,
                    total_level=10,
                    magnitude_level=9,
                    magnitude_std=0.5,
                    hparams=dict(pad_val=[round(x) for x in _base_.bgr_mean], interpolation=interpolation),
                )
            ]
            for interpolation in either
        ],
    ),
    dict(
        type='RandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=_base_.bgr_mean,
        fill_std=_base_.bgr_std,
    ),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=235, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=256,
    num_workers=10,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),  # one tensor a batch, stacked by the workers
    dataset=dict(data_prefix=dict(img_path='train'), pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=10,
    persistent_workers=True,
    dataset=dict(data_prefix=dict(img_path='val'), pipeline=test_pipeline),
)
test_dataloader = val_dataloader
