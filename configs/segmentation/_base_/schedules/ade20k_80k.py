# ADE20K, 80,000 iterations (SparX, Sec. 4.3, which follows UniFormer). The sources differ on the batch: 16 images,
# or 32, which is taken here as 8 GPUs x 4.
_base_ = './ade20k_160k.py'

train_dataloader = dict(batch_size=4)

train_cfg = dict(max_iters=80000)

# The warm-up is a factor of the cosine, which begins with it.
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=1000),
    dict(type='CosineAnnealingLR', T_max=80000, eta_min_ratio=1e-8, by_epoch=False, begin=0, end=80000),
]

optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-4))

auto_scale_lr = dict(base_batch_size=32)
