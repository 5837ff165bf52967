# Semantic FPN as for SparX-Mamba-T.
_base_ = ['../../segmentation/_base_/models/fpn.py', '../../segmentation/_base_/schedules/ade20k_80k.py']
