# ImageNet-1K, 300 epochs and ten of cool-down, 8 GPUs x 256 images (SparX, Sec. 4.1).
_base_ = ['mmpretrain::_base_/default_runtime.py', '../../../_base_/sparx_runtime.py']

train_cfg = dict(by_epoch=True, max_epochs=310, val_interval=1)
val_cfg = dict()
test_cfg = dict()

# fp16, as published; where the loss becomes NaN: --cfg-options optim_wrapper.type=OptimWrapper for float32, or
# optim_wrapper.dtype=bfloat16.
# Without decay: parameters with at most one axis, biases among them; the scan's A_log and dt_proj_bias and the
# shortcuts' scales decay.
lr = 4e-3
optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(flat_decay_mult=0.0),
)

# timm's schedule, which changes learning rates once per epoch and whose cosine counts the warm-up's epochs: from 1e-6
# up to the cosine in epoch 20, at 1e-5 from epoch 300. `end` is the first epoch without a change. During the warm-up
# mmengine multiplies the two, so that learning rates are up to 1 % lower than timm's.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / lr, by_epoch=True, begin=0, end=21),
    dict(type='CosineAnnealingLR', T_max=300, eta_min=1e-5, by_epoch=True, begin=0, end=301),
]

# Both models are evaluated: accuracy/top1 is the averaged one's, by which the best checkpoint is chosen,
# accuracy/top1_origin the other's. Running statistics are averaged, too, as in timm.
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type='EMAHook',
        ema_type='ExponentialMovingAverage',
        momentum=2e-4,
        update_buffers=True,
        evaluate_on_ema=True,
        evaluate_on_origin=True,
    ),
]
default_hooks = dict(
    checkpoint=dict(type='mmsparx.SafeCheckpointHook', interval=1, max_keep_ckpts=3, save_best='accuracy/top1')
)
env_cfg = dict(cudnn_benchmark=True)  # all images have one size

auto_scale_lr = dict(enable=False, base_batch_size=2048)
