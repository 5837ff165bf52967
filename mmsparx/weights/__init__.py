"""Files of weights: reading them safely, matching them with a model, writing them. Needs mmengine.

`reading` holds what a file may contain, `files` the formats, `names` the published names and ours, `loading` the
comparison with a model, `report` and `causes` what it says; `convert` and `atomic` write. Nothing here imports a
network: a model is whatever `torch.nn.Module` a caller passes in.

Importing this package secures mmengine's loading of checkpoints in this process (see `reading`). mmengine imports
`mmsparx.models`, `mmsparx.engine` or `mmsparx.datasets` when it looks up a type `mmsparx.*`, and each of them
imports this package.
"""

from mmsparx.weights.atomic import AtomicBackend
from mmsparx.weights.files import choose_weights, read_state_dict
from mmsparx.weights.loading import accept_published_names, load_pretrained, match_weights, rename_published
from mmsparx.weights.reading import check_archive, secure_mmengine
from mmsparx.weights.report import LoadReport

__all__ = [
    'AtomicBackend',
    'LoadReport',
    'accept_published_names',
    'check_archive',
    'choose_weights',
    'load_pretrained',
    'match_weights',
    'read_state_dict',
    'rename_published',
    'secure_mmengine',
]

secure_mmengine()
