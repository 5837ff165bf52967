# The paper reports 52.3 mIoU on ADE20K, and 53.4 with the multi-scale test; a retraining by its authors, 52.5.
_base_ = ['./_base_/models/upernet_sparx_b.py', './_base_/schedules/ade20k_160k.py']
