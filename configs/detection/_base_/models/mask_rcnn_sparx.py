# Mask R-CNN over SparX-Mamba; the leaves name its size.
_base_ = './mask_rcnn.py'

model = dict(
    backbone=dict(type='mmsparx.SparXMamba', aggregator=dict(type='DMCA', learnable_scale=True)),
)
