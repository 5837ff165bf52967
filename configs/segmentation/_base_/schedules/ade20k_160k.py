# ADE20K, 160,000 iterations, 8 GPUs x 2 images (SparX, Sec. 4.3, which follows UniFormer).
_base_ = '../datasets/ade20k.py'

train_dataloader = dict(batch_size=2)

train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=8000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000),
]

# 'norm' is in the names of the group and output norms and not in those of the batch norms, as in
# the published networks, whose batch norms decay.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={'norm': dict(decay_mult=0.0)}),
)

auto_scale_lr = dict(enable=False, base_batch_size=16)

default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type='mmsparx.SafeCheckpointHook', by_epoch=False, interval=8000, max_keep_ckpts=3),
    visualization=dict(type='SegVisualizationHook'),
)
