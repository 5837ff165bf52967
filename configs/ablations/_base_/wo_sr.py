# w/o SR (Table 11).
_base_ = './variant.py'

backbone = dict(arch=dict(_delete_=True, base='tiny', reductions=[1, 1, 1, 1]))
