"""Weights-only loading of mmengine's checkpoints.

Since torch 2.6 `torch.load` refuses every global that is not allow-listed, and the Runner's own
checkpoints hold some: `HistoryBuffer`s, numpy scalars and arrays, and `builtins.getattr`, by which
pickle names HistoryBuffer's methods. `allow_mmengine_globals` allow-lists the former and answers
`builtins.getattr` with a function that knows these methods and nothing else. The builtin itself
must never be allowed: with it a file can reach any attribute of any object, hence run any code.

Importing `mmsparx.models` calls `allow_mmengine_globals`. Weights-only loading is never switched
off; on torch below 2.6, where mmengine asks for none, `weights_only` switches it on.
"""

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


def _numpy_globals() -> list[tuple[object, str]]:
    """What numpy's scalars and arrays are pickled with, under the names of numpy 1 and 2."""
    core = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    found: list[tuple[object, str]] = [(np.ndarray, 'numpy.ndarray'), (np.dtype, 'numpy.dtype')]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        found += [(core._reconstruct, f'{module}._reconstruct'), (core.scalar, f'{module}.scalar')]
    for code in '?bBhHiIlLqQefd':
        kind = type(np.dtype(code))
        found.append((kind, f'numpy.dtypes.{kind.__name__}'))
    return found


def allow_mmengine_globals() -> None:
    """Let weights-only loading read what mmengine's Runner writes; safe to call again."""
    allowed = [
        (HistoryBuffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (restricted_getattr, 'builtins.getattr'),
        *_numpy_globals(),
    ]
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) >= (2, 6):
        torch.serialization.add_safe_globals(allowed)
    else:
        torch.serialization.add_safe_globals(_named_for_old_torch(allowed))


def _named_for_old_torch(allowed: list[tuple[object, str]]) -> list[object]:
    """torch 2.4 and 2.5 take no (object, name) pairs: they read the name off the object."""

    def getattr_(obj, name):
        return restricted_getattr(obj, name)

    getattr_.__module__, getattr_.__name__, getattr_.__qualname__ = 'builtins', 'getattr', 'getattr'
    others = [obj for obj, name in allowed if name != 'builtins.getattr']
    return [*others, getattr_]


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
