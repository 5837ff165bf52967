# COCO instance segmentation, 12 epochs, 8 GPUs x 2 images (SparX, Sec. 4.2, which follows Swin).
_base_ = 'mmdet::_base_/datasets/coco_instance.py'

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]

# 'norm' is in the names of the group and output norms and not in those of the batch norms, as in
# the published networks, whose batch norms decay.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0)}),
)

auto_scale_lr = dict(enable=False, base_batch_size=16)
