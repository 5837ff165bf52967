"""A reader of pickles as data, which imports, calls or instantiates nothing that a file names.

A pickle is a program. It names functions and classes, calls them, and sets the state of what they return. This module
runs the program on plain `records`:

- A name that the file asks for is a `Global`, which is two strings.
- A call is looked up in `calls`. The functions there build records from arguments that they check. A call of any other
  name ends the reading.
- An instance of a class that is not known, made without arguments, is an `Unknown`: whatever the file puts into it is
  dropped.
- A dict is a `DictData`, which hashes nothing.

The result consists of these records, lists, tuples, strings, bytes, numbers, booleans and None, and may contain
itself. `reading` turns it into what callers may see. Python's `pickletools` documents the opcodes.
"""

import struct
from collections.abc import Callable

from mmsparx.weights.calls import MAX_NAME, call, instance, is_filled, persistent, set_state
from mmsparx.weights.records import DictData, Global, RefusedError, SetData, Storage, Unknown, named

# Bounds far above what a checkpoint of a detector with its optimizer needs (some 130 000 operations).
MAX_OPERATIONS = 3_000_000
MAX_INTEGER = 255  # bytes
_PYTHON_2 = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}
_MARK = object()


class Unpickler:
    """Runs one pickle.

    Args:
        data: Bytes that hold the pickle.
        position: Start of the pickle.
        operations: Largest number of operations.
    """

    def __init__(self, data: bytes, position: int = 0, operations: int = MAX_OPERATIONS):
        self.data, self.position = data, position
        self.operations = operations
        # A pickle writes every string once, and encodes it at most once.
        self.encoded = len(data)
        self.stack: list = []
        self.memo: dict[int, object] = {}
        self.storages: list[Storage] = []

    def run(self) -> object:
        """The object of the pickle at `position`, which is moved to its end; another may follow.

        Raises:
            RefusedError: the pickle is damaged, too long, or has contents that are not read.
        """
        operations = _OPERATIONS
        self.stack.clear()
        self.memo.clear()
        try:
            while True:
                self.operations -= 1
                if self.operations < 0:
                    raise RefusedError('it takes more operations than any checkpoint does')
                code = self.data[self.position]
                self.position += 1
                if code == _STOP:
                    (result,) = self.stack
                    if result is _MARK:
                        raise RefusedError('it ends with a mark')
                    return result
                operations[code](self)
        except KeyError as error:
            raise RefusedError(
                f'it is damaged, or not by torch.save: unknown opcode or reference {error} at byte {self.position}'
            ) from error
        except (IndexError, struct.error, ValueError, UnicodeDecodeError) as error:
            if isinstance(error, RefusedError):
                raise
            raise RefusedError(f'it is damaged at byte {self.position}: {error}') from error

    def take(self, count: int) -> bytes:
        """The next bytes."""
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise RefusedError(f'it is cut off: {count} bytes are expected, {len(self.data) - self.position} are there')
        part = self.data[self.position : end]
        self.position = end
        return part

    def number(self, format_: str, size: int) -> int:
        return struct.unpack(format_, self.take(size))[0]

    def line(self) -> str:
        end = self.data.find(b'\n', self.position, self.position + MAX_NAME)
        if end < 0:
            raise RefusedError('a name has no end')
        part = self.data[self.position : end]
        self.position = end + 1
        return part.decode('utf-8')

    def since_mark(self) -> list:
        """Pops the objects that were pushed since the last mark."""
        stack = self.stack
        for i in range(len(stack) - 1, -1, -1):
            if stack[i] is _MARK:
                items = stack[i + 1 :]
                del stack[i:]
                return items
        raise RefusedError('it is damaged: a mark is missing')

    def pop(self) -> object:
        value = self.stack.pop()
        if value is _MARK:
            raise RefusedError('it is damaged: a mark is in the place of a value')
        return value

    def top(self) -> object:
        if self.stack[-1] is _MARK:
            raise RefusedError('it is damaged: a mark is in the place of a value')
        return self.stack[-1]

    def push_global(self, module: object, name: object) -> None:
        if type(module) is not str or type(name) is not str or len(module) + len(name) > MAX_NAME:
            raise RefusedError('a name is not a string')
        self.stack.append(Global(_PYTHON_2.get(module, module), name))

    def append(self, items: list) -> None:
        target = self.top()
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Unknown:
            raise RefusedError(f'items are appended to a {type(target).__name__}')

    def set_items(self, items: list) -> None:
        target = self.top()
        if len(items) % 2:
            raise RefusedError('it is damaged: a key has no value')
        if type(target) is DictData:
            target.items.extend(zip(items[::2], items[1::2], strict=True))
        elif type(target) is not Unknown:
            raise RefusedError(f'items are set in a {type(target).__name__}')

    def add_items(self, items: list) -> None:
        target = self.top()
        if type(target) is SetData and target.kind == 'set':
            target.items.extend(items)
        elif type(target) is not Unknown:
            raise RefusedError(f'items are added to a {type(target).__name__}')

    def integer(self, size: int) -> int:
        if size > MAX_INTEGER:
            raise RefusedError(f'an integer has {size} bytes; at most {MAX_INTEGER} are read')
        return int.from_bytes(self.take(size), 'little', signed=True)

    def call(self, function: object, args: object) -> object:
        """`calls.call`, which counts copied arguments, since a file can pass the same one again and again."""
        for x in args if type(args) is tuple else ():
            if type(x) in (list, tuple):
                self.operations -= len(x)
            elif type(x) is DictData:
                self.operations -= len(x.items)
            elif type(x) in (str, bytes):
                self.encoded -= len(x)
        if self.operations < 0 or self.encoded < 0:
            raise RefusedError('it takes more operations than any checkpoint does')
        return call(function, args)

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        self.memo[index] = self.top()


def _tuple_of(count: int) -> Callable[[Unpickler], None]:
    def make(unpickler: Unpickler) -> None:
        values = [unpickler.pop() for _ in range(count)]
        unpickler.stack.append(tuple(reversed(values)))

    return make


def _push(value: object) -> Callable[[Unpickler], None]:
    return lambda m: m.stack.append(value)


def _push_read(read: Callable[[Unpickler], object]) -> Callable[[Unpickler], None]:
    return lambda m: m.stack.append(read(m))


def _text_of(format_: str, size: int) -> Callable[[Unpickler], None]:
    return _push_read(lambda m: m.take(m.number(format_, size)).decode('utf-8'))


def _bytes_of(format_: str, size: int) -> Callable[[Unpickler], None]:
    return _push_read(lambda m: m.take(m.number(format_, size)))


def _reduce(m: Unpickler) -> None:
    args, function = m.pop(), m.pop()
    m.stack.append(m.call(function, args))


def _new(m: Unpickler) -> None:
    args, kind = m.pop(), m.pop()
    m.stack.append(instance(kind, args))


def _new_with_keywords(m: Unpickler) -> None:
    keywords, args, kind = m.pop(), m.pop(), m.pop()
    if is_filled(keywords):
        raise RefusedError(f'it asks to make an instance of {named(kind)}')
    m.stack.append(instance(kind, args))


def _build(m: Unpickler) -> None:
    state = m.pop()
    set_state(m.top(), state)


def _stack_global(m: Unpickler) -> None:
    name, module = m.pop(), m.pop()
    m.push_global(module, name)


def _protocol(m: Unpickler) -> None:
    version = m.number('<B', 1)
    if not 2 <= version <= 5:
        raise RefusedError(f'it is of protocol {version}, which torch does not write')


def _set_one(m: Unpickler) -> None:
    value, key = m.pop(), m.pop()
    m.set_items([key, value])


def _dict_of(m: Unpickler) -> None:
    items = m.since_mark()
    m.stack.append(DictData())
    m.set_items(items)


def _persist(m: Unpickler) -> None:
    storage = persistent(m.pop())
    m.storages.append(storage)
    m.stack.append(storage)


_STOP = ord('.')
# Handlers by opcode; torch does not write the missing ones (protocols 0 and 1, extensions, buffers out of band).
_OPERATIONS: dict[int, Callable[[Unpickler], None]] = {
    0x80: _protocol,
    0x95: lambda m: m.take(8) and None,  # FRAME
    ord('('): _push(_MARK),
    ord('0'): lambda m: m.stack.pop() and None,
    ord('1'): lambda m: m.since_mark() and None,
    ord('2'): lambda m: m.stack.append(m.top()),
    ord('N'): _push(None),
    0x88: _push(True),
    0x89: _push(False),
    ord('J'): _push_read(lambda m: m.number('<i', 4)),
    ord('K'): _push_read(lambda m: m.number('<B', 1)),
    ord('M'): _push_read(lambda m: m.number('<H', 2)),
    0x8A: _push_read(lambda m: m.integer(m.number('<B', 1))),
    0x8B: _push_read(lambda m: m.integer(m.number('<I', 4))),
    ord('G'): _push_read(lambda m: m.number('>d', 8)),
    ord('X'): _text_of('<I', 4),
    0x8C: _text_of('<B', 1),
    0x8D: _text_of('<Q', 8),
    ord('U'): _text_of('<B', 1),  # Python 2's
    ord('T'): _text_of('<i', 4),
    ord('B'): _bytes_of('<I', 4),
    ord('C'): _bytes_of('<B', 1),
    0x8E: _bytes_of('<Q', 8),
    0x96: _bytes_of('<Q', 8),
    ord(')'): _push(()),
    ord('t'): _push_read(lambda m: tuple(m.since_mark())),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord(']'): _push_read(lambda m: []),
    ord('l'): _push_read(lambda m: m.since_mark()),
    ord('a'): lambda m: m.append([m.pop()]),
    ord('e'): lambda m: m.append(m.since_mark()),
    ord('}'): _push_read(lambda m: DictData()),
    ord('d'): _dict_of,
    ord('s'): _set_one,
    ord('u'): lambda m: m.set_items(m.since_mark()),
    0x8F: _push_read(lambda m: SetData('set', [])),
    0x90: lambda m: m.add_items(m.since_mark()),
    0x91: _push_read(lambda m: SetData('frozenset', m.since_mark())),
    ord('q'): lambda m: m.put(m.number('<B', 1)),
    ord('r'): lambda m: m.put(m.number('<I', 4)),
    0x94: lambda m: m.put(len(m.memo)),
    ord('h'): lambda m: m.get(m.number('<B', 1)),
    ord('j'): lambda m: m.get(m.number('<I', 4)),
    ord('c'): lambda m: m.push_global(m.line(), m.line()),
    0x93: _stack_global,
    ord('R'): _reduce,
    0x81: _new,
    0x92: _new_with_keywords,
    ord('b'): _build,
    ord('Q'): _persist,
}
