_base_ = './sparx_mamba.py'

model = dict(backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=636))
