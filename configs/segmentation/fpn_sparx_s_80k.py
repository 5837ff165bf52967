# The paper reports 50.5 mIoU on ADE20K.
_base_ = ['./_base_/models/fpn_sparx_s.py', './_base_/schedules/ade20k_80k.py']
