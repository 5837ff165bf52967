_base_ = './upernet_sparx.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.5,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/LMMMEng/SparX/releases/download/v1/sparx_mamba_base_in1k.pth',
        ),
    ),
    decode_head=dict(in_channels=[120, 240, 396, 636]),
    auxiliary_head=dict(in_channels=396),
)
