_base_ = './fpn_sparx.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.4,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/LMMMEng/SparX/releases/download/v1/sparx_mamba_base_in1k.pth',
        ),
    ),
    neck=dict(in_channels=[120, 240, 396, 636]),
)
