# The paper reports 50.0 mIoU on ADE20K, and 50.8 with the multi-scale test; a retraining by its authors, 50.2.
_base_ = ['./_base_/models/upernet_sparx_t.py', './_base_/schedules/ade20k_160k.py']
