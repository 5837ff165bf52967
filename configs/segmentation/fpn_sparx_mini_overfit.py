_base_ = ['./_base_/models/fpn_sparx_mini.py', './_base_/schedules/ade20k_overfit.py']
