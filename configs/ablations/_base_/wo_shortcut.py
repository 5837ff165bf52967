# w/o shortcut (Table 11).
_base_ = './variant.py'

backbone = dict(aggregator=dict(type='DMCA', shortcut=False))
