# The demo: a small Mask R-CNN learns the shapes of demo/make_shapes.py from scratch, in minutes on two CPU cores.
_base_ = ['./_base_/models/mask_rcnn_sparx_mini.py', 'mmdet::_base_/datasets/coco_instance.py']

data_root = 'work_dirs/demo/data/'
metainfo = dict(
    classes=('circle', 'triangle', 'square', 'star'),
    palette=[(66, 135, 245), (245, 166, 35), (80, 200, 120), (235, 77, 75)],
)
scale = (96, 96)
max_iters = 450

# These settings learn most from few images: normalised layers, convolutions in the box head, and boxes and masks that
# do not depend on the class. There are few regions, since RoIAlign is slow on a CPU.
norm_cfg = dict(type='BN')
model = dict(
    backbone=dict(token_mixer=dict(type='SS2D', expand=1)),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=2,
            num_shared_fcs=1,
            conv_out_channels=64,
            norm_cfg=norm_cfg,
            num_classes=4,
            reg_class_agnostic=True,
        ),
        mask_head=dict(
            norm_cfg=norm_cfg,
            num_classes=4,
            class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=24, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=60), rcnn=dict(max_per_img=30)),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=scale),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=None,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05), clip_grad=dict(max_norm=5.0)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=1e-6, by_epoch=False, begin=0, end=max_iters),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=150)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=150),
    logger=dict(type='LoggerHook', interval=25, log_metric_by_epoch=False),
    visualization=dict(score_thr=0.5),
)
log_processor = dict(by_epoch=False)
visualizer = dict(line_width=2, alpha=0.6)
randomness = dict(seed=0)
