# Fine-tuning of SparX-Mamba-T on classes of your own, a folder for each. Copy it, and change the settings before
# `model`. It runs as it is on the digits that `python tools/dataset_converters/digits.py data/own` writes.
#
# It starts from the published classifier of ImageNet, whose last layer is left out; with --cfg-options load_from=FILE
# from another one.
_base_ = '../sparx_mamba_t_in1k.py'

data_root = 'data/own/'  # train/CLASS/, val/CLASS/
metainfo = dict(classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9'))  # the folders' names, sorted
max_epochs = 20
batch_size = 32  # images on each GPU
load_from = _base_.init_cfg['checkpoint']

num_classes = len(metainfo['classes'])
model = dict(
    backbone=dict(
        frozen_stages=1,  # the stem and the first stage keep their weights; -1 trains all
        norm_eval=True,  # batch norms keep the statistics of the pretraining
        drop_path_rate=0.1,  # half of the pretraining's, since the run is short
    ),
    head=dict(num_classes=num_classes),
    train_cfg=None,  # no Mixup and no CutMix, which want long runs
)
data_preprocessor = dict(num_classes=num_classes)

dataset = dict(_delete_=True, type='CustomDataset', data_root=data_root, metainfo=metainfo)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=4,
    drop_last=False,  # a set smaller than a batch would be dropped as a whole
    dataset=dict(**dataset, data_prefix=dict(img_path='train'), pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=4,
    dataset=dict(**dataset, data_prefix=dict(img_path='val'), pipeline=_base_.test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='Accuracy', topk=1),
    # Precision and recall of each class, in the order of the classes.
    dict(type='SingleLabelMetric', items=('precision', 'recall', 'f1-score'), average=None),
]
test_evaluator = val_evaluator

# The learning rate is for 256 images in all, and is scaled to the batch of all GPUs. The last layer, which is new, has
# a higher one; in the backbone it decays from the last layer to the stem. Training is in float32; --amp trains in mixed
# precision.
auto_scale_lr = dict(enable=True, base_batch_size=256)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(lr=5e-4),
    clip_grad=dict(max_norm=5.0),
    constructor='mmsparx.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.9, custom_keys={'head.fc.weight': dict(lr_mult=10.0)}),
)

# Schedules are shares of the run: the warm-up takes a tenth of it.
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, convert_to_iter_based=True, begin=0, end=0.1 * max_epochs),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=1e-6, convert_to_iter_based=True, begin=0, end=max_epochs),
]

# The EMAHook of the long recipe is left out: its average would still be of the initial weights.
custom_hooks = [
    *(hook for hook in _base_.custom_hooks if hook['type'] != 'EMAHook'),
    dict(type='mmsparx.StrictLoadHook', may_differ=['head.fc.*']),  # which has a channel for each class
]
