# DSN (Table 4): S=1 and no window, in every stage that has ganglion layers.
_base_ = './variant.py'

backbone = dict(
    arch=dict(
        _delete_=True,
        base='tiny',
        stages=[_base_.stages[0], *(dict(depth=stage['depth'], stride=1) for stage in _base_.stages[1:])],
    )
)
