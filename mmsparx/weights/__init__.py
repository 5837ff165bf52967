"""Files of weights: reading them safely, matching them with a model, writing them. Needs mmengine.

A file is read in one way, whoever asks for it:

- `files` sees what kind of file it is; `archive` finds the parts of torch's formats and checks their checksums;
- `pickles` runs the pickle in it on plain `records`, by the functions of `calls` and no others;
- `reading` turns these into values of exact types, and refuses everything else.

`contents` chooses a copy of the weights, `names` translates published names, `loading` compares them with a model,
`report`, `causes` and `networks` say what came of it. `convert` and `atomic` write. Nothing here imports a network: a
model is whatever `torch.nn.Module` a caller passes in, and the named ones are those that are registered.

Importing this package makes mmengine read checkpoints in this way as well (`mmengine_loading`). mmengine imports
`mmsparx.models`, `mmsparx.engine` or `mmsparx.datasets` when it looks up a type `mmsparx.*`, and each of them imports
this package.
"""

from mmsparx.weights.atomic import AtomicBackend
from mmsparx.weights.contents import choose_weights, read_weights
from mmsparx.weights.files import UnreadableError, read_checkpoint
from mmsparx.weights.loading import flatten_hook, load_pretrained, match_weights, rename_published
from mmsparx.weights.mmengine_loading import secure_mmengine
from mmsparx.weights.report import LoadReport

__all__ = [
    'AtomicBackend',
    'LoadReport',
    'UnreadableError',
    'choose_weights',
    'flatten_hook',
    'load_pretrained',
    'match_weights',
    'read_checkpoint',
    'read_weights',
    'rename_published',
    'secure_mmengine',
]

secure_mmengine()
