# The paper reports 51.3 mIoU on ADE20K, and 52.5 with the multi-scale test; a retraining by its authors, 51.4.
_base_ = ['./_base_/models/upernet_sparx_s.py', './_base_/schedules/ade20k_160k.py']
