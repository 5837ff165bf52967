# S=4 (Table 10) in stage 3.
_base_ = './variant.py'

backbone = dict(
    arch=dict(
        _delete_=True, base='tiny', stages=[*_base_.stages[:2], dict(depth=7, stride=4, window=3), _base_.stages[3]]
    )
)
