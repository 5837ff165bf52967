# M=2 (Table 10) in stage 3.
_base_ = './variant.py'

backbone = dict(
    arch=dict(
        _delete_=True, base='tiny', stages=[*_base_.stages[:2], dict(depth=7, stride=2, window=2), _base_.stages[3]]
    )
)
