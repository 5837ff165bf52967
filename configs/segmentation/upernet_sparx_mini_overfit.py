_base_ = ['./_base_/models/upernet_sparx_mini.py', './_base_/schedules/ade20k_overfit.py']

# The loss only counts the pixels that are still wrong, of which small objects are a larger part.
model = dict(decode_head=dict(sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=2000)))
