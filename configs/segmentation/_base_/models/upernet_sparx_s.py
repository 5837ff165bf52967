_base_ = './upernet_sparx.py'

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.4,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/LMMMEng/SparX/releases/download/v1/sparx_mamba_small_in1k.pth',
        ),
    ),
    decode_head=dict(in_channels=[96, 192, 328, 544]),
    auxiliary_head=dict(in_channels=328),
)
