# The paper reports 51.9 mIoU on ADE20K.
_base_ = ['./_base_/models/fpn_sparx_b.py', './_base_/schedules/ade20k_80k.py']
