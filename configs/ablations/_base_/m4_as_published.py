# M=4 (Table 10). By the paper's rule it is T itself, since no ganglion layer of stage 3 has more than three before it.
# The printed parameters are T's with two more sources, which is what the stage's input in the window gives.
_base_ = './variant.py'

backbone = dict(
    arch=dict(
        _delete_=True,
        base='tiny',
        stages=[*_base_.stages[:2], dict(depth=7, stride=2, window=3, input_in_window=True), _base_.stages[3]],
    )
)
