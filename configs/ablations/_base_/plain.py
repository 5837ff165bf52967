# PlainNet (Table 10): no ganglion layers, and more channels in stages 3 and 4 instead.
_base_ = './variant.py'

channels = [96, 192, 384, 576]
backbone = dict(
    arch=dict(
        _delete_=True,
        base='tiny',
        channels=channels,
        stages=[dict(depth=stage['depth']) for stage in _base_.stages],
    )
)
