"""Loading checkpoints without running what they hold: mmengine's way in, and every file it reads.

**Weights only.** Since torch 2.6 `torch.load` refuses every global that is not allow-listed, and the Runner's own
checkpoints hold some: `HistoryBuffer`s, numpy scalars and arrays, and `builtins.getattr`, by which
pickle names HistoryBuffer's methods. `allow_mmengine_globals` allow-lists the former and answers
`builtins.getattr` with a function that knows these methods and nothing else. The builtin itself
must never be allowed: with it a file can reach any attribute of any object, hence run any code.
Nor must `numpy.ndarray`: called with object dtype and a buffer, it takes the file's bytes for
pointers. A stand-in that refuses to be called answers for it.

Weights-only loading is never switched off. mmengine does not ask for it: torch below 2.6 then
unpickles anything, and newer torch does so for addresses (torch.hub's default). So mmengine's loaders
are wrapped in `weights_only`.

**No stored config.** A config is Python, and its types name any function that can be imported. mmengine
stores its text in checkpoints, and runs it: on a resume where there is a `config` in the meta data, in
inferencers that are given a checkpoint and no config. What is read has these texts replaced.

**No damaged file.** torch's reader does not check the checksums that its writer stores, so a flipped
bit becomes another weight. Local files are checked before they are read.

Importing `mmsparx.weights`, and with it the models and the hooks, calls `secure_mmengine`, which does all of this.
"""

import codecs
import os
import threading
import zipfile
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import wraps
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

_METHODS = ('min', 'max', 'mean', 'current')


def restricted_getattr(obj: object, name: str) -> Callable:
    """`getattr` for HistoryBuffer's statistics, and for nothing else.

    Raises:
        UnpicklingError: any other object or name.
    """
    if obj is HistoryBuffer and type(name) is str and name in _METHODS:
        return getattr(HistoryBuffer, name)
    raise UnpicklingError(
        f"a checkpoint asks for the attribute {name!r} of {obj!r}. Only HistoryBuffer's {', '.join(_METHODS)} are "
        'allowed: the file was not written by mmengine alone, or it is hostile. It was not loaded.'
    )


class _ArrayType:
    """Stands for `numpy.ndarray` in a checkpoint: handed to `_reconstruct`, never called.

    Equal to it, since torch looks an array's type up among the allowed ones before it fills it.
    """

    __module__ = 'numpy'
    __name__ = 'ndarray'

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ArrayType) or other is np.ndarray

    def __hash__(self) -> int:
        return hash(np.ndarray)

    def __call__(self, *args):
        raise UnpicklingError(
            'a checkpoint calls numpy.ndarray, which pickle does not: the file is hostile. It was not loaded.'
        )


def _empty_array(*_) -> np.ndarray:
    """`_reconstruct` as pickle calls it for a plain array, which is filled afterwards."""
    return np.ndarray((0,), 'b')


def _numpy_globals() -> list[tuple[object, str]]:
    """What numpy's scalars and arrays are pickled with, under the names of numpy 1 and 2."""
    scalar = np.float64().__reduce__()[0]  # it moved between numpy 1 and 2
    found: list[tuple[object, str]] = [(_ArrayType(), 'numpy.ndarray'), (np.dtype, 'numpy.dtype')]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        found += [(_empty_array, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    for code in '?bBhHiIlLqQefd':
        kind = type(np.dtype(code))
        found.append((kind, f'numpy.dtypes.{kind.__name__}'))
    return found


def allow_mmengine_globals() -> None:
    """Let weights-only loading read what mmengine's Runner writes; safe to call again."""
    allowed = [
        (HistoryBuffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (restricted_getattr, 'builtins.getattr'),
        (codecs.encode, '_codecs.encode'),  # of an array's bytes; newer torch allows it itself
        *_numpy_globals(),
    ]
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) >= (2, 6):
        torch.serialization.add_safe_globals(allowed)
    else:
        torch.serialization.add_safe_globals(_named_for_old_torch(allowed))


def _named_for_old_torch(allowed: list[tuple[object, str]]) -> list[object]:
    """torch 2.4 and 2.5 take no (object, name) pairs: they read the name off the object."""

    def named(function, name):
        def wrapper(*args):
            return function(*args)

        wrapper.__module__, _, wrapper.__name__ = name.rpartition('.')
        return wrapper

    # Types and what stands for one have their names already.
    return [obj if isinstance(obj, (type, _ArrayType)) else named(obj, name) for obj, name in allowed]


_SWITCH = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
_lock = threading.Lock()
_within = 0  # how many `weights_only` blocks are entered, in all threads
_before: str | None = None  # the switch as the first of them found it


@contextmanager
def weights_only() -> Iterator[None]:
    """Within it, every `torch.load` of the process loads weights only, even if it says otherwise.

    Raises:
        RuntimeError: the environment switches weights-only loading off.
    """
    global _within, _before
    if os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        raise RuntimeError(
            'the environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD switches safe loading off: a checkpoint could '
            'run any code. Unset it; mmengine checkpoints load without it.'
        )
    with _lock:
        if not _within:
            _before = os.environ.get(_SWITCH)
            os.environ[_SWITCH] = '1'
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if not _within:
                os.environ.pop(_SWITCH) if _before is None else os.environ.update({_SWITCH: _before})


def check_archive(path: str | os.PathLike) -> None:
    """See that a file of torch's zip format is whole: its directory, and the checksum of every record.

    Files of other formats pass. A file that torch wrote with its checksums off (`set_crc32_options`)
    counts as damaged.

    Raises:
        RuntimeError: it is empty, truncated, or a record is not what was written; says which.
    """
    size = os.path.getsize(path)
    if not size:
        raise RuntimeError(f'{path} is damaged: it is empty. {_AGAIN}')
    with open(path, 'rb') as file:
        if file.read(4) != b'PK\x03\x04':
            return
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
                # torch takes a record with this bit for a folder, and leaves its tensor uninitialised.
                folders = [info.filename for info in archive.infolist() if info.external_attr & 0x10 and info.file_size]
        except Exception as error:  # damage can make zipfile fail in any way
            raise RuntimeError(
                f'{path} is damaged: cut off after {size} bytes, or overwritten ({error}). {_AGAIN}'
            ) from error
    for record in [damaged, *folders]:
        if record is not None:
            raise RuntimeError(f'{path} is damaged: the record {record!r} is not what was written. {_AGAIN}')


_AGAIN = 'Copy or download it again, or take an earlier checkpoint.'

STORED_CONFIG = """\
# A config is code, and this one came with a checkpoint: mmsparx has not read it.
raise ValueError(
    'this checkpoint brings a config of its own, which mmsparx does not run, since it could be any code. '
    'Name the config: DetInferencer(model=CONFIG, weights=CHECKPOINT), and likewise for other inferencers.'
)
"""


def _without_configs(checkpoint: object) -> object:
    """Replace the texts that mmengine would run as a config, in place."""
    if not isinstance(checkpoint, MutableMapping):
        return checkpoint
    meta, hub = checkpoint.get('meta'), checkpoint.get('message_hub')
    info = hub.get('runtime_info') if isinstance(hub, MutableMapping) else None
    if isinstance(meta, MutableMapping):
        meta.pop('config', None)  # what a resume reads one value of, the number of GPUs
    for holder in (meta, info):
        if isinstance(holder, MutableMapping) and 'cfg' in holder:
            holder['cfg'] = STORED_CONFIG
    return checkpoint


def _secured(load: Callable) -> Callable:
    @wraps(load)  # mmengine logs the loader's name
    def secured(filename, *args, **kwargs):
        local = os.path.expanduser(filename)
        if os.path.isfile(local):
            check_archive(local)
        with weights_only():
            return _without_configs(load(filename, *args, **kwargs))

    secured.is_secured = True
    return secured


def secure_mmengine() -> None:
    """Make mmengine's loading of checkpoints safe in this process, as above; may be called again."""
    allow_mmengine_globals()
    for prefix, load in CheckpointLoader._schemes.items():
        if not hasattr(load, 'is_secured'):
            CheckpointLoader.register_scheme(prefix, _secured(load), force=True)
