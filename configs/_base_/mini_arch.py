# A small SparX-Mamba with every kind of layer, for smoke tests and checks on a CPU. It is not from the paper.
mini_arch = dict(
    channels=[32, 64, 96, 128],
    stages=[
        dict(depth=1),
        dict(depth=2, stride=1, first=1),
        dict(depth=3, stride=2, window=3),
        dict(depth=1, stride=1),
    ],
)
