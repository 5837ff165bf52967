# The paper reports 49.5 mIoU on ADE20K.
# Does not agree to the printed digits: no reading of the text gives 30.9 M and 6.0 G; here S=1 and no window hold in
# every stage that has ganglion layers.
_base_ = ['./_base_/fpn_80k.py', './_base_/dsn.py']

model = dict(backbone=dict(**_base_.backbone, init_cfg=_base_.init_cfg), neck=dict(in_channels=_base_.channels))
