# Fine-tuning of UperNet with SparX-Mamba-T on classes of your own. Copy it, and change the settings before `model`. It
# runs as it is on the set that `python demo/make_shapes.py data/own` draws, with label maps by
# tools/dataset_converters/label_maps.py data/own/annotations/instances_SPLIT.json data/own/label_maps/SPLIT.
#
# It starts from ImageNet weights. To start from a segmenter of other classes, whose last layers are left out:
#     mmsparx train CONFIG --no-pretrained --cfg-options load_from=FILE
_base_ = '../upernet_sparx_t_160k.py'

data_root = 'data/own/'  # {train,val}/NAME.jpg, label_maps/{train,val}/NAME.png
metainfo = dict(
    # The class of each value in the label maps: 0, 1, ...; 255 is ignored.
    classes=('background', 'circle', 'triangle', 'square', 'star'),
    palette=[(0, 0, 0), (66, 135, 245), (245, 166, 35), (80, 200, 120), (235, 77, 75)],
)
max_iters = 4000
batch_size = 4  # images on each GPU
scale = (2048, 512)  # images are resized to fit into it
crop_size = (512, 512)

num_classes = len(metainfo['classes'])
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        frozen_stages=1,  # the stem and the first stage keep their weights; -1 trains all
        norm_eval=True,  # batch norms keep the statistics of the pretraining, since four images are too few
    ),
    decode_head=dict(num_classes=num_classes),
    auxiliary_head=dict(num_classes=num_classes),
)

# ADE20K's steps would take the first class for one that is ignored (reduce_zero_label).
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(_delete_=True, type='BaseSegDataset', data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        **dataset, data_prefix=dict(img_path='train', seg_map_path='label_maps/train'), pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    dataset=dict(**dataset, data_prefix=dict(img_path='val', seg_map_path='label_maps/val'), pipeline=test_pipeline)
)
test_dataloader = val_dataloader
# The log has a table of all classes: IoU, accuracy, F-score, precision and recall.
val_evaluator = dict(iou_metrics=['mIoU', 'mFscore'])
test_evaluator = val_evaluator

# The learning rate is for 16 images in all, and is scaled to the batch of all GPUs. New layers, all but the
# backbone, have a higher one; in the backbone it decays from the last layer to the stem.
auto_scale_lr = dict(enable=True, base_batch_size=16)
optim_wrapper = dict(
    optimizer=dict(lr=6e-5),
    clip_grad=dict(max_norm=5.0),
    constructor='mmsparx.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.9, custom_keys={part: dict(lr_mult=10.0) for part in ('decode_head', 'auxiliary_head')}
    ),
)

# Schedules are shares of the run: the warm-up takes a twentieth of it.
warm_up = max_iters // 20
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=warm_up),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=warm_up, end=max_iters),
]
default_hooks = dict(checkpoint=dict(interval=max_iters // 10, save_best='mIoU'))

# The layers with a channel for each class need not match those of a segmenter given as load_from.
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='mmsparx.StrictLoadHook', may_differ=['decode_head.conv_seg.*', 'auxiliary_head.conv_seg.*']),
]
