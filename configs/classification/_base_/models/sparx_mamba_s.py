_base_ = './sparx_mamba.py'

model = dict(backbone=dict(arch='small', drop_path_rate=0.3), head=dict(in_channels=544))
