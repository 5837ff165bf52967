# Semantic FPN over SparX-Mamba; the leaves name its size, and a drop path to start from: that of the published runs is
# not known.
_base_ = './fpn.py'

model = dict(
    backbone=dict(type='mmsparx.SparXMamba', aggregator=dict(type='DMCA', learnable_scale=False)),
)
