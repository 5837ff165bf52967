# Fine-tuning of Mask R-CNN with SparX-Mamba-T on classes of your own, in COCO's format. Copy it, and change the
# settings before `model`. It runs as it is on a set that `python demo/make_shapes.py data/own` draws.
#
# It starts from ImageNet weights. To start from a detector of other classes, whose last layers are left out:
#     mmsparx train CONFIG --no-pretrained --cfg-options load_from=FILE
_base_ = '../mask_rcnn_sparx_t_1x.py'

data_root = 'data/own/'  # annotations/instances_{train,val}.json, train/, val/
metainfo = dict(
    classes=('circle', 'triangle', 'square', 'star'),  # the categories' names in the file; ('circle',) for one class
    palette=[(66, 135, 245), (245, 166, 35), (80, 200, 120), (235, 77, 75)],
)
max_epochs = 12
batch_size = 2  # images on each GPU

num_classes = len(metainfo['classes'])
model = dict(
    backbone=dict(
        frozen_stages=1,  # the stem and the first stage keep their weights; -1 trains all
        norm_eval=True,  # batch norms keep the statistics of the pretraining, since two images are too few
    ),
    roi_head=dict(bbox_head=dict(num_classes=num_classes), mask_head=dict(num_classes=num_classes)),
)

dataset = dict(data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(**dataset, ann_file='annotations/instances_train.json', data_prefix=dict(img='train/')),
)
val_dataloader = dict(
    dataset=dict(**dataset, ann_file='annotations/instances_val.json', data_prefix=dict(img='val/')),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    ann_file=data_root + 'annotations/instances_val.json',
    classwise=True,  # AP of each class as well
)
test_evaluator = val_evaluator

# The learning rate is for 16 images in all, and is scaled to the batch of all GPUs. New layers, all but the
# backbone, have a higher one; in the backbone it decays from the last layer to the stem.
auto_scale_lr = dict(enable=True, base_batch_size=16)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    clip_grad=dict(max_norm=5.0),
    constructor='mmsparx.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.9, custom_keys={part: dict(lr_mult=4.0) for part in ('neck', 'rpn_head', 'roi_head')}
    ),
)

# Schedules are shares of the run: the warm-up takes a tenth of it, and the steps come after two thirds and eleven
# twelfths.
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, convert_to_iter_based=True, begin=0, end=0.1 * max_epochs),
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_epochs,
        milestones=[round(max_epochs * 2 / 3), round(max_epochs * 11 / 12)],
        gamma=0.1,
    ),
]
default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP'))

# The layers with a channel for each class need not match those of a detector given as load_from.
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='mmsparx.StrictLoadHook',
        may_differ=[
            'roi_head.bbox_head.fc_cls.*',
            'roi_head.bbox_head.fc_reg.*',
            'roi_head.mask_head.conv_logits.*',
        ],
    ),
]
