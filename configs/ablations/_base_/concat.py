# Concat (Table 5).
_base_ = './variant.py'

backbone = dict(aggregator=dict(type='Concat'))
