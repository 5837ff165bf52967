_base_ = './sparx_mamba.py'

model = dict(backbone=dict(arch='tiny', drop_path_rate=0.2), head=dict(in_channels=512))
