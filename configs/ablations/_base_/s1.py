# S=1 (Table 10) in stage 3, with M=4, which meets all figures; with the text's M=3 there would be 29.28 M parameters.
_base_ = './variant.py'

backbone = dict(
    arch=dict(
        _delete_=True, base='tiny', stages=[*_base_.stages[:2], dict(depth=7, stride=1, window=4), _base_.stages[3]]
    )
)
