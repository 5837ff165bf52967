_base_ = ['./_base_/models/upernet_sparx_mini.py', './_base_/schedules/ade20k_overfit.py']
