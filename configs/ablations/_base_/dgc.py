# DGC (Table 4): a ganglion layer reads the input and all layers before it.
_base_ = './variant.py'

backbone = dict(
    arch=dict(
        _delete_=True,
        base='tiny',
        stages=[
            *_base_.stages[:2],
            dict(depth=7, stride=2, dense=True),
            dict(depth=2, stride=1, dense=True),
        ],
    )
)
