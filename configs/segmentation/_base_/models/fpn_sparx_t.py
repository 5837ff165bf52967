_base_ = './fpn_sparx.py'

model = dict(
    backbone=dict(
        arch='tiny',
        drop_path_rate=0.2,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/LMMMEng/SparX/releases/download/v1/sparx_mamba_tiny_in1k.pth',
        ),
    ),
    neck=dict(in_channels=[96, 192, 320, 512]),
)
