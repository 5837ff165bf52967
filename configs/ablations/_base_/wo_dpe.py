# w/o DPE (Table 11).
_base_ = './variant.py'

backbone = dict(style=dict(type='sparx', position_encoding=False))
