"""The calls that a pickle may make: functions of our own that check their arguments and build `records`.

They stand for torch's, numpy's, Python's and mmengine's functions and classes of the names in `CALLS` and `_INSTANCES`,
under the names that Python 3 and numpy 1 and 2 write. Whatever else a file calls is refused by name.
"""

import math
from collections.abc import Callable

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
    named,
)

MAX_NAME = 1000  # characters of a module and a name


def _sizes(values: object, what: str) -> tuple[int, ...]:
    """Sizes or strides of a tensor or an array: integers from 0 on, at most 64 of them."""
    if type(values) is not tuple or len(values) > 64 or not all(type(x) is int and 0 <= x < 2**62 for x in values):
        raise RefusedError(f'the {what} is no tuple of integers from 0 on')
    return values


def _tensor(
    storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None, *, dtype: str | None = None
) -> TensorData:
    if type(storage) is not Storage or type(offset) is not int or not 0 <= offset < 2**62:
        raise RefusedError('a tensor has no storage, or no offset into it')
    if is_filled(hooks) or is_filled(metadata):
        raise RefusedError('a tensor has hooks or a conjugate bit, which are not read')
    size, stride = _sizes(size, 'size of a tensor'), _sizes(stride, 'stride of a tensor')
    if len(size) != len(stride):
        raise RefusedError(f'a tensor of size {size} has the stride {stride}')
    return TensorData(storage, offset, size, stride, dtype)


def _tensor_with_type(storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None) -> TensorData:
    if type(dtype) is not Global or dtype.module != 'torch':
        raise RefusedError('a tensor has no type of torch')
    return _tensor(storage, offset, size, stride, requires_grad, hooks, metadata, dtype=dtype.name)


def _parameter(data, requires_grad=True, hooks=None, state=None) -> TensorData:
    """The tensor of a parameter; what Python attributes it had is dropped."""
    if type(data) is not TensorData or is_filled(hooks):
        raise RefusedError('a parameter holds no tensor, or has hooks')
    return data


def _subclass(function, kind, args, state) -> TensorData:
    """A tensor or parameter with Python attributes, which are dropped."""
    if (
        type(function) is not Global
        or function not in _TENSORS
        or kind not in (Global('torch', 'Tensor'), Global('torch.nn.parameter', 'Parameter'))
        or type(args) is not tuple
    ):
        raise RefusedError(f'a tensor is of the class {named(kind)}, built by {named(function)}, which is not read')
    return _TENSORS[function](*args)


def is_filled(value: object) -> bool:
    return value is not None and not (type(value) is DictData and not value.items)


def _pairs(kind: str) -> Callable[..., DictData]:
    def build(content: object = ()) -> DictData:
        if type(content) is DictData:
            return DictData(kind, list(content.items))
        if type(content) not in (list, tuple) or not all(type(x) in (list, tuple) and len(x) == 2 for x in content):
            raise RefusedError(f'the content of a {kind} is not a list of pairs')
        return DictData(kind, [tuple(pair) for pair in content])

    return build


def _items(kind: str) -> Callable[..., SetData]:
    def build(content: object = ()) -> SetData:
        if type(content) not in (list, tuple):
            raise RefusedError(f'the content of a {kind} is not a list')
        return SetData(kind, list(content))

    return build


def _encoded(text: object = '', encoding: object = 'latin1') -> bytes:
    """Bytes, which protocol 2 writes as a string in latin1; other codecs may take a quadratic time."""
    if type(text) is not str or encoding != 'latin1':
        raise RefusedError(f'a string is to be encoded as {named(encoding)}; pickle writes latin1 alone')
    try:
        return text.encode('latin1')
    except UnicodeEncodeError as error:
        raise RefusedError('bytes are written as a string that is not in latin1') from error


def _bytes(content: object = b'') -> bytes:
    if type(content) is not bytes:
        raise RefusedError('bytes are made of no bytes')
    return content


def _complex(real: object = 0.0, imaginary: object = 0.0) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise RefusedError('a complex number has a part that is not a float')
    return complex(real, imaginary)


def _attribute(owner: object, name: object) -> Global:
    """pickle names what stands in a class by getattr. No attribute is looked up: the result is a longer name."""
    if type(owner) is not Global or type(name) is not str or len(owner.name) + len(name) > MAX_NAME:
        raise RefusedError('an attribute of an object that is not a class is requested')
    return Global(owner.module, f'{owner.name}.{name}')


def _torch_size(values: object = ()) -> tuple[int, ...]:
    return _sizes(tuple(values) if type(values) is list else values, 'size of a tensor')


def _device(kind: object, index: object = None) -> str:
    if type(kind) is not str or type(index) not in (int, type(None)):
        raise RefusedError('a device has no name')
    return kind if index is None else f'{kind}:{index}'


def _default_dict(factory: object = None, content: object = ()) -> DictData:
    """A defaultdict as a plain dict; what it fills in is a function, and dropped."""
    return _pairs('dict')(content)


def _array_type(code: object, *_) -> DtypeData:
    if type(code) is not str or item_size(code) is None:
        raise RefusedError(f'it holds numpy values of the dtype {named(code)}; only numbers and strings are read')
    return DtypeData(code)


def _scalar(dtype: object, raw: object) -> ScalarData:
    if type(dtype) is not DtypeData or type(raw) is not bytes or len(raw) != item_size(dtype.code):
        raise RefusedError('a number of numpy has another size than its type')
    return ScalarData(dtype, raw)


def _empty_array(kind: object, shape: object = (0,), code: object = b'b') -> ArrayData:
    if kind != Global('numpy', 'ndarray'):
        raise RefusedError(f'an array is of the class {named(kind)}, which is not read')
    return ArrayData()


_TENSORS: dict[Global, Callable[..., TensorData]] = {
    Global('torch._utils', '_rebuild_tensor'): _tensor,
    Global('torch._utils', '_rebuild_tensor_v2'): _tensor,
    Global('torch._utils', '_rebuild_tensor_v3'): _tensor_with_type,
    Global('torch._utils', '_rebuild_parameter'): _parameter,
    Global('torch._utils', '_rebuild_parameter_with_state'): _parameter,
}
# Functions that a file may call, under the names that Python 3 and numpy 1 and 2 write.
CALLS: dict[Global, Callable] = {
    **_TENSORS,
    Global('torch._tensor', '_rebuild_from_type_v2'): _subclass,
    Global('torch', 'Size'): _torch_size,
    Global('torch', 'device'): _device,
    Global('collections', 'OrderedDict'): _pairs('OrderedDict'),
    Global('collections', 'Counter'): _pairs('Counter'),
    Global('collections', 'defaultdict'): _default_dict,
    Global('mmengine.config.config', 'ConfigDict'): _pairs('dict'),
    Global('builtins', 'set'): _items('set'),
    Global('builtins', 'frozenset'): _items('frozenset'),
    Global('builtins', 'bytes'): _bytes,
    Global('builtins', 'bytearray'): _bytes,
    Global('builtins', 'complex'): _complex,
    Global('builtins', 'getattr'): _attribute,
    Global('_codecs', 'encode'): _encoded,
    Global('numpy', 'dtype'): _array_type,
    **{
        Global(f'numpy.{core}.multiarray', name): build
        for core in ('core', '_core')
        for name, build in (('scalar', _scalar), ('_reconstruct', _empty_array))
    },
}
# Classes of Python's library that checkpoints hold and that have no value as data; with arguments, too, their
# instances are dropped.
_DROPPED = {
    Global(module, name)
    for modules, names in (
        (('pathlib', 'pathlib._local'), ('PosixPath', 'WindowsPath', 'PurePosixPath', 'PureWindowsPath')),
        (('datetime',), ('date', 'datetime', 'time', 'timedelta', 'timezone')),
        (('uuid',), ('UUID',)),
        (('decimal',), ('Decimal',)),
    )
    for module in modules
    for name in names
}
_HISTORY_BUFFER = Global('mmengine.logging.history_buffer', 'HistoryBuffer')
_INSTANCES: dict[Global, Callable[[], object]] = {
    _HISTORY_BUFFER: HistoryData,
    Global('collections', 'OrderedDict'): _pairs('OrderedDict'),
    Global('collections', 'Counter'): _pairs('Counter'),
}


# Names of records in messages.
_KINDS = {
    DictData: 'a dict',
    SetData: 'a set',
    DtypeData: 'a numpy dtype, twice',
    ArrayData: 'a numpy array, twice',
    ScalarData: 'a numpy scalar',
    HistoryData: 'a HistoryBuffer, twice',
    TensorData: 'a tensor',
    Storage: 'a storage',
    Global: 'a class or function',
}


def set_state(target: object, state: object) -> None:
    if type(target) is Unknown:
        return
    if type(target) is HistoryData and type(state) is DictData and target.state is None:
        target.state = state
        return
    if (
        type(target) is DictData
        and target.kind == 'OrderedDict'
        and type(state) is DictData
        and target.attributes is None
    ):
        names = [name for name, _ in state.items]
        if names not in ([], ['_metadata']):
            raise RefusedError(f'an OrderedDict has attributes of its own: {", ".join(map(named, names[:3]))}')
        target.attributes = state
        return
    if type(target) is DtypeData and type(state) is tuple:
        # (version, byte order, subtype, names, fields, item size, alignment, flags)
        if len(state) < 5 or state[1] not in ('<', '>', '|', '=') or any(x is not None for x in state[2:5]):
            raise RefusedError('a type of numpy has fields or parts')
        target.order = state[1]
        return
    if type(target) is ArrayData and type(state) is tuple and len(state) == 5 and target.dtype is None:
        _, shape, dtype, fortran, raw = state
        if type(dtype) is not DtypeData or type(raw) is not bytes or type(fortran) is not bool:
            raise RefusedError('an array of numpy holds a value that is not a number')
        count = item_size(dtype.code) * math.prod(_sizes(shape, 'shape of an array'))
        if count != len(raw):
            raise RefusedError(f'an array of shape {shape} has {len(raw)} bytes, where {count} belong')
        target.dtype, target.shape, target.fortran, target.raw = dtype, shape, fortran, raw
        return
    raise RefusedError(f'it sets attributes of {_KINDS.get(type(target), "a value")}, which pickle does not do')


def call(function: object, args: object) -> object:
    if type(function) is not Global or type(args) is not tuple:
        raise RefusedError('it calls an object that is not a function')
    if function in _DROPPED:
        return Unknown(function)
    if function not in CALLS:
        raise RefusedError(f'it asks to call {function}')
    try:
        return CALLS[function](*args)
    except TypeError as error:
        raise RefusedError(f'it calls {function} with {len(args)} arguments, which it does not take') from error


def instance(kind: object, args: object) -> object:
    if type(kind) is not Global or type(args) is not tuple:
        raise RefusedError('an instance of an object that is not a class is made')
    if args:
        raise RefusedError(f'it asks to make an instance of {kind}')
    return _INSTANCES[kind]() if kind in _INSTANCES else Unknown(kind)


def persistent(identifier: object) -> Storage:
    """A storage, by torch's tuple: ('storage', class, key, location, elements), in old files with a view, or None."""
    if type(identifier) is not tuple or len(identifier) not in (5, 6) or identifier[0] != 'storage':
        raise RefusedError('a persistent object is no storage')
    kind, key, location, count, *view = identifier[1:]
    if (
        type(kind) is not Global
        or kind.module not in ('torch', 'torch.cuda', 'torch.storage')
        or not all(type(x) is str for x in (key, location))
        or type(count) is not int
        or not 0 <= count < 2**62
        or any(x is not None for x in view)
    ):
        raise RefusedError('a storage is not as torch writes it')
    return Storage(kind.name, key, location, count)
