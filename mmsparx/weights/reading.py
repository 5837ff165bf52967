"""The allowed contents of a checkpoint: records of a file become values of exact types, or the file is refused.

The file has no influence on the types of the results. A resulting value is a dict, an OrderedDict (with
torch's `_metadata` and no other attribute), a Counter, a list, a tuple, a set, a string, bytes, a number, a boolean,
None, a dense tensor, or one of mmengine's HistoryBuffers, made here from checked numbers. Numbers of numpy
become Python's, and its arrays lists. No container is shared or contains itself, so that a walk through them ends.
end.

An instance of another class, as the argparse.Namespace of timm's training script, is not understood, and neither is a
function. The entry of the dict that holds it is left out and named. A request for a *call* ends the reading (see
`pickles`).
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from mmsparx.weights.archive import DTYPES, DamagedError, LegacyFile, ZipArchive, size_of
from mmsparx.weights.records import (
    ArrayData,
    DictData,
    DtypeData,
    Global,
    HistoryData,
    RefusedError,
    ScalarData,
    SetData,
    Storage,
    TensorData,
    Unknown,
    item_size,
)

MAX_DEPTH = 100
MAX_VALUES = 3_000_000
MAX_LISTED = 1_000_000  # numbers of an array that becomes a list
MAX_COPIED = 2**30  # bytes of all histories
MAX_KEY = 2**60  # beyond, different integers may have one hash
MAX_HISTORY = 100_000_000
_PLAIN = (str, bytes, int, float, complex, bool, type(None))
# Types that have no class of storages of their own, by torch's names.
_OTHER_TYPES = ('uint16', 'uint32', 'uint64', 'float8_e4m3fn', 'float8_e4m3fnuz', 'float8_e5m2', 'float8_e5m2fnuz')
_TYPES = {str(dtype).removeprefix('torch.'): dtype for dtype in DTYPES.values()}
_TYPES |= {name: getattr(torch, name) for name in _OTHER_TYPES if hasattr(torch, name)}

Location = torch.device | str | Mapping | Callable | None


class _NotUnderstoodError(Exception):
    """A value contains an instance of this class, or this function."""

    def __init__(self, kind: Global):
        super().__init__(str(kind))
        self.kind = kind


class Rebuilder:
    """Turns one file's records into values.

    Args:
        archive: File of the records.
        tensors: True to read the tensors' memory; otherwise they are on the meta device.
        location: Device of the tensors, as `torch.load` takes it; None means the CPU.

    Attributes:
        left_out: Places of values that were not understood, such as ('args',), with the names of their classes.
    """

    def __init__(self, archive: ZipArchive | LegacyFile, location: Location = None, tensors: bool = True):
        self.archive, self.location, self.tensors = archive, location, tensors
        self.left_out: dict[tuple, str] = {}
        self._storages: dict[str, torch.UntypedStorage] = {}
        self._path: list = []
        self._values = 0
        self._copied = 0

    def __call__(self, value: object) -> object:
        """The value of a record.

        Raises:
            RefusedError: its contents may not be in a checkpoint.
        """
        try:
            return self._rebuild(value)
        except _NotUnderstoodError as error:
            raise RefusedError(f'it holds an object of {error.kind}, and no weights') from error
        except (DamagedError, RefusedError, RecursionError):
            raise
        except (ValueError, OverflowError, RuntimeError, MemoryError) as error:  # of numpy or torch
            raise RefusedError(f'a value cannot be made: {str(error).splitlines()[0][:200]}') from error

    def _rebuild(self, value: object) -> object:
        self._values += 1
        if self._values > MAX_VALUES or len(self._path) > MAX_DEPTH:
            raise RefusedError('it holds more than any checkpoint, or contains itself')
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is TensorData:
            return self._tensor(value)
        if kind is DictData:
            return self._dict(value)
        if kind in (list, tuple):
            return kind(self._all(value))
        if kind is SetData:
            return self._set(value)
        if kind is ScalarData:
            return _numbers(value.dtype, value.raw).item()
        if kind is ArrayData:
            return self._list(value)
        if kind is HistoryData:
            return self._history(value)
        if kind is Unknown:
            raise _NotUnderstoodError(value.kind)
        if kind is Global:
            raise _NotUnderstoodError(value)
        raise RefusedError(f'it holds a bare {kind.__name__}')

    def _all(self, values: list | tuple) -> list:
        self._path.append(None)
        try:
            return [self._rebuild(x) for x in values]
        finally:
            self._path.pop()

    def _dict(self, pairs: DictData) -> dict:
        found: dict = {'dict': dict, 'OrderedDict': OrderedDict, 'Counter': Counter}[pairs.kind]()
        for key, value in pairs.items:
            if type(key) not in (str, int, bool, type(None)) or (type(key) is int and abs(key) >= MAX_KEY):
                raise RefusedError(f'it holds a dict with a key of type {type(key).__name__}, or a very large one')
            self._path.append(key)
            try:
                found[key] = self._rebuild(value)
                if type(value) is TensorData and type(key) is str and not key.isprintable():
                    raise RefusedError(f'the name of a tensor, {key[:100]!r}, is not printable')
            except _NotUnderstoodError as error:
                self.left_out[tuple(self._path)] = str(error.kind)
            finally:
                self._path.pop()
        if pairs.kind == 'Counter' and not all(type(x) in (int, float, bool) for x in found.values()):
            raise RefusedError('a Counter has a count that is not a number')
        if pairs.attributes is not None and pairs.attributes.items:
            ((name, metadata),) = pairs.attributes.items
            metadata = self._rebuild(metadata)
            if not isinstance(metadata, dict):
                raise RefusedError(f'the {name} of a state dict is not a dict')
            found._metadata = metadata
        return found

    def _set(self, items: SetData) -> set | frozenset:
        values = self._all(items.items)
        if not all(type(x) in (str, int, bool, type(None)) for x in values):
            raise RefusedError('it holds a set with elements other than strings and integers')
        if any(type(x) is int and abs(x) >= MAX_KEY for x in values):
            raise RefusedError('it holds a set of very large numbers')
        return set(values) if items.kind == 'set' else frozenset(values)

    def _list(self, data: ArrayData) -> object:
        # An array without elements may have any number of empty rows.
        self._values += math.prod(max(side, 1) for side in data.shape)
        if self._values > MAX_VALUES:
            raise RefusedError(f'it holds an array of the shape {data.shape}, which is too large for a list')
        return _array(data, MAX_LISTED).tolist()

    def _history(self, data: HistoryData) -> HistoryBuffer:
        buffer = _history(data)
        self._copied += buffer._log_history.nbytes + buffer._count_history.nbytes
        if self._copied > MAX_COPIED:
            raise RefusedError('it holds more histories than any checkpoint')
        return buffer

    def _tensor(self, data: TensorData) -> Tensor:
        held = size_of(data.storage)
        dtype = DTYPES[data.storage.kind] if data.dtype is None else _TYPES.get(data.dtype)
        if dtype is None:
            raise RefusedError(f'a tensor is of the type {data.dtype[:100]!r}, which is not read')
        count = math.prod(data.size)
        last = sum((side - 1) * step for side, step in zip(data.size, data.stride, strict=True)) if count else -1
        if (data.offset + last + 1) * dtype.itemsize > held or count * dtype.itemsize > held:
            raise RefusedError(
                f'a tensor of size {data.size}, stride {data.stride} and offset {data.offset} is to lie in {held} bytes'
            )
        if not self.tensors:
            self.archive.check(data.storage)
            return torch.empty_strided(data.size, data.stride, dtype=dtype, device='meta')
        place = self._storage(data.storage)
        return torch.empty(0, dtype=dtype, device=place.device).set_(place, data.offset, data.size, data.stride)

    def _storage(self, storage: Storage) -> torch.UntypedStorage:
        found = self._storages.get(storage.key)
        if found is None:
            found = _to(self.archive.memory(storage).untyped_storage(), storage.location, self.location)
            self._storages[storage.key] = found
        elif found.nbytes() != size_of(storage):
            raise RefusedError(f'the storage {storage.key!r} has two sizes')
        return found


def to_device(x: Tensor, location: Location) -> Tensor:
    """Move a tensor from the CPU to `location`."""
    place = _to(x.untyped_storage(), 'cpu', location)
    return torch.empty(0, dtype=x.dtype, device=place.device).set_(place, 0, x.size(), x.stride())


def _to(storage: torch.UntypedStorage, saved: str, location: Location) -> torch.UntypedStorage:
    """Move a storage from the CPU to `location`; `saved` is the device that it was on."""
    if callable(location):
        placed = location(storage, saved)
        return storage if placed is None else placed
    if isinstance(location, Mapping):
        location = location.get(saved)
    if location is None or torch.device(location).type == 'cpu':
        return storage
    return torch.empty(0, dtype=torch.uint8).set_(storage).to(location).untyped_storage()


def _numbers(dtype: DtypeData, raw: bytes) -> np.ndarray:
    """An array (n,) of numbers, which are checked to fill the bytes."""
    if len(raw) % item_size(dtype.code):
        raise RefusedError('the size of a numpy value does not match its dtype')
    return np.frombuffer(raw, np.dtype(f'{dtype.order}{dtype.code}'))


def _array(data: ArrayData, most: int) -> np.ndarray:
    if data.dtype is None:
        raise RefusedError('an array of numpy was left without content')
    numbers = _numbers(data.dtype, data.raw)
    if numbers.size > most:
        raise RefusedError(f'an array of numpy has {numbers.size} numbers; what is so large belongs into a tensor')
    return numbers.reshape(data.shape, order='F' if data.fortran else 'C')


def _history(data: HistoryData) -> HistoryBuffer:
    state = {key: value for key, value in data.state.items if type(key) is str} if data.state is not None else {}
    length, *arrays = (state.get(name) for name in ('max_length', '_log_history', '_count_history'))
    if type(length) is not int or not 0 < length <= MAX_HISTORY or not all(type(x) is ArrayData for x in arrays):
        raise RefusedError('a HistoryBuffer has no length, or no arrays')
    values, counts = (_array(x, length) for x in arrays)
    if values.ndim != 1 or values.shape != counts.shape or 'c' in (values.dtype.kind, counts.dtype.kind):
        raise RefusedError('a HistoryBuffer has arrays of different lengths, or no real numbers')
    buffer = HistoryBuffer(max_length=length)
    buffer._log_history, buffer._count_history = values.copy(), counts.copy()  # that can be written to
    return buffer


def check_values(value: object) -> object:
    """A copy of another reader's value, if it is of the types of this module.

    Raises:
        RefusedError: it is not.
    """
    return _Checker().check(value, 0)


class _Checker:
    """Counts the values that `check_values` copies, since a value may hold another any number of times."""

    def __init__(self):
        self.values = 0

    def check(self, value: object, depth: int) -> object:
        self.values += 1
        if self.values > MAX_VALUES or depth > MAX_DEPTH:
            raise RefusedError('it holds more than any checkpoint, or contains itself')
        kind = type(value)
        if kind in _PLAIN or isinstance(value, Tensor) or kind is HistoryBuffer:
            return value
        if kind in (dict, OrderedDict, Counter):
            found = kind()
            for key, inner in kind.items(value):
                if type(key) not in (str, int, bool, type(None)):
                    raise RefusedError(f'it holds a dict with a key of type {type(key).__name__}')
                found[key] = self.check(inner, depth + 1)
            return found
        if kind in (list, tuple):
            return kind(self.check(inner, depth + 1) for inner in value)
        if kind in (set, frozenset) and all(type(x) in _PLAIN for x in value):
            return kind(value)
        if kind is torch.Size:
            return tuple(value)
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in 'biufcU':
            self.values += value.size
            return value.tolist()
        raise RefusedError(f'it holds an object of {kind.__module__}.{kind.__qualname__}')
