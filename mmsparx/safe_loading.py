"""Weights-only loading of mmengine's checkpoints.

Since torch 2.6 `torch.load` refuses every global that is not allow-listed, and the Runner's own
checkpoints hold some: `HistoryBuffer`s, numpy scalars and arrays, and `builtins.getattr`, by which
pickle names HistoryBuffer's methods. `allow_mmengine_globals` allow-lists the former and answers
`builtins.getattr` with a function that knows these methods and nothing else. The builtin itself
must never be allowed: with it a file can reach any attribute of any object, hence run any code.
Nor must `numpy.ndarray`: called with object dtype and a buffer, it takes the file's bytes for
pointers. A stand-in that refuses to be called answers for it.

Importing `mmsparx.models` calls `allow_mmengine_globals`. Weights-only loading is never switched
off; on torch below 2.6, where mmengine asks for none, `weights_only` switches it on.
"""

import codecs
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

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


@contextmanager
def weights_only() -> Iterator[None]:
    """Within it, every `torch.load` that does not say otherwise loads weights only.

    Raises:
        RuntimeError: the environment switches weights-only loading off.
    """
    switch = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
    if os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        raise RuntimeError(
            'the environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD switches safe loading off: a checkpoint could '
            'run any code. Unset it; mmengine checkpoints load without it.'
        )
    before = os.environ.get(switch)
    os.environ[switch] = '1'
    try:
        yield
    finally:
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before
