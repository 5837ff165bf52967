# Minutes on a CPU, for the small network; the leaves say how many iterations. Not of the paper.
_base_ = ['mmpretrain::_base_/default_runtime.py', '../../../_base_/sparx_runtime.py']

val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(flat_decay_mult=0.0),
)
default_hooks = dict(
    checkpoint=dict(type='mmsparx.SafeCheckpointHook', by_epoch=False, interval=100, max_keep_ckpts=3),
    logger=dict(interval=20),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
