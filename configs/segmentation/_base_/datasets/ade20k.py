# ADE20K's 150 classes, crops of 512x512; tested on whole images.
_base_ = 'mmseg::_base_/datasets/ade20k.py'

scale = (2048, 512)
to_multiple = dict(type='ResizeToMultiple', size_divisor=32)

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    to_multiple,
    dict(type='LoadAnnotations'),  # after resizing, so that metrics are of the image's own size
    dict(type='PackSegInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# The multi-scale tests of tools/test.py --tta, by name: 'published' is that of the published results, in ratios of
# `scale`; 'original' is mmseg's, in ratios of each image's size.
tta_pipelines = dict(
    published=[
        dict(type='LoadImageFromFile'),
        dict(
            type='TestTimeAug',
            transforms=[
                [
                    dict(type='Resize', scale=tuple(int(side * ratio) for side in scale), keep_ratio=True)
                    for ratio in _base_.img_ratios  # 0.5, 0.75, 1, 1.25, 1.5, 1.75
                ],
                [to_multiple],
                [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
                [dict(type='LoadAnnotations')],
                [dict(type='PackSegInputs')],
            ],
        ),
    ],
    original=_base_.tta_pipeline,
)
