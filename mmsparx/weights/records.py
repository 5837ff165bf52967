"""Contents of a file of weights as plain records: nothing of the file is imported, called or instantiated.

`pickles` makes them, with the checks of `calls`; these three modules only import the standard library. `reading` turns
records into values.
"""

import re
from dataclasses import dataclass, field


class RefusedError(ValueError):
    """The contents of a file may not be read; the message names them."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a file asks to be imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return ''.join(x if x.isprintable() else '?' for x in f'{self.module}.{self.name}')


@dataclass(slots=True, eq=False)
class Unknown:
    """An instance of an unknown class, whose contents are dropped."""

    kind: Global


@dataclass(slots=True, eq=False)
class DictData:
    """A dict, an OrderedDict or a Counter.

    Attributes:
        kind: Type, 'dict', 'OrderedDict' or 'Counter'.
        items: Keys and values in the order of the file; a key may occur twice.
        attributes: Attributes of the instance, which an OrderedDict may have.
    """

    kind: str = 'dict'
    items: list[tuple[object, object]] = field(default_factory=list)
    attributes: 'DictData | None' = None


@dataclass(slots=True, eq=False)
class SetData:
    """A set or a frozenset, by the name of its type."""

    kind: str
    items: list


@dataclass(frozen=True, slots=True)
class Storage:
    """Memory of tensors, which is in another place of the file.

    Attributes:
        kind: Name of torch's class, such as 'FloatStorage'.
        key: Key of the record that holds it.
        location: Device that it was on.
        count: Number of elements.
    """

    kind: str
    key: str
    location: str
    count: int


@dataclass(frozen=True, slots=True)
class TensorData:
    """A dense tensor: a part of a storage. `dtype` is torch's name of the type, or None for the storage's own."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str | None = None


@dataclass(slots=True, eq=False)
class DtypeData:
    """A numpy dtype of numbers or strings, by its code ('f8', 'U3') and byte order."""

    code: str
    order: str = '<'


@dataclass(slots=True, eq=False)
class ArrayData:
    """An array of numpy, filled once by its state."""

    dtype: DtypeData | None = None
    shape: tuple[int, ...] = ()
    fortran: bool = False
    raw: bytes = b''


@dataclass(frozen=True, slots=True)
class ScalarData:
    """A number of numpy."""

    dtype: DtypeData
    raw: bytes


@dataclass(slots=True, eq=False)
class HistoryData:
    """The state of mmengine's HistoryBuffer."""

    state: DictData | None = None


# Bytes of numpy's numbers, by their code.
_ITEM_SIZES = {'b1': 1, 'f2': 2, 'f4': 4, 'f8': 8, 'c8': 8, 'c16': 16} | {
    f'{sign}{size}': size for sign in 'iu' for size in (1, 2, 4, 8)
}
_TEXT = re.compile(r'U([1-9]\d{0,4})')


def item_size(code: str) -> int | None:
    """Bytes of an item of a numpy dtype, by its code; None for other codes than those of numbers and strings."""
    text = _TEXT.fullmatch(code)
    return 4 * int(text[1]) if text else _ITEM_SIZES.get(code)


def named(value: object) -> str:
    """The description of a file's value in a message; values may be nested to any depth."""
    if type(value) is str:
        return repr(value[:100])
    return str(value)[:200] if type(value) is Global else type(value).__name__
