# UperNet over SparX-Mamba; the leaves name its size.
_base_ = './upernet.py'

model = dict(
    backbone=dict(type='mmsparx.SparXMamba', aggregator=dict(type='DMCA', learnable_scale=False)),
)
