# The paper reports 48.6 mIoU on ADE20K.
# Fitted: the aggregator takes the place of the qkv projection, and the size of the heads; the plan, for which the
# paper gives neither S nor M.
_base_ = ['./_base_/models/upernet.py', '../_base_/sparx_swin_b.py', './_base_/schedules/ade20k_160k.py']

model = dict(
    backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)

optim_wrapper = dict(paramwise_cfg=_base_.paramwise_cfg)
