"""The two formats of `torch.save`: the layout of a file, and checks that it is whole.

`ZipArchive` is the format since torch 1.6: a zip archive of stored records with a checksum each. `LegacyFile` is the
one before: pickles, followed by the memory of all storages, without checksums. Both give the pickled object as
`records`, and the bytes of a storage as a tensor.
"""

import os
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

import torch
from torch import Tensor

from mmsparx.weights.pickles import Unpickler
from mmsparx.weights.records import DictData, RefusedError, Storage

ZIP_MAGIC = b'PK\x03\x04'
LEGACY_MAGIC = b'\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19'  # the pickled number below
LEGACY_NUMBER, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
# Some hundred times what a detector's checkpoint after a million iterations has of each.
MAX_PICKLE = 512 * 2**20
MAX_DIRECTORY = 16 * 2**20
_CHUNK = 2**20  # bytes that are read and summed up while they are in a cache
_WINDOW = 2**24
_LOCAL_HEADER = struct.Struct('<4s5H3I2H')
# Records that describe the directory at an archive's end; the latter two are there where 32 bits are too few.
_END = struct.Struct('<4s4H2IH')
_LOCATOR = struct.Struct('<4sIQI')
_END_64 = struct.Struct('<4sQ2H2I4Q')
# torch's classes of storages; the untyped one counts bytes.
DTYPES = {
    'DoubleStorage': torch.float64,
    'FloatStorage': torch.float32,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64,
    'IntStorage': torch.int32,
    'ShortStorage': torch.int16,
    'CharStorage': torch.int8,
    'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
    'ComplexDoubleStorage': torch.complex128,
    'ComplexFloatStorage': torch.complex64,
    'UntypedStorage': torch.uint8,
}


class DamagedError(ValueError):
    """A file is damaged; the message says where."""


@dataclass(frozen=True)
class _Record:
    """Start, number and checksum (CRC-32) of a record's bytes."""

    start: int
    size: int
    checksum: int


class ZipArchive:
    """A file of torch's zip format, open for reading.

    torch only writes stored records, each once and none within another; anything else is refused.

    Args:
        file: File, at its beginning.

    Raises:
        DamagedError: the directory of the archive cannot be read.
        RefusedError: the archive was not written by torch.save.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.records = _read_directory(file)
        folders = {name.partition('/')[0] for name in self.records}
        torchscript = any(name.endswith('/constants.pkl') for name in self.records)
        if torchscript or len(folders) != 1 or f'{min(folders)}/data.pkl' not in self.records:
            raise RefusedError(_foreign_archive(self.records))
        self.folder = folders.pop()
        self._unread = set(self.records)

    def load(self) -> object:
        """The pickled object, as `records`."""
        order = f'{self.folder}/byteorder'
        if order in self.records and self._bytes(order, 16).strip() != b'little':
            raise RefusedError('it was written on a machine with another byte order')
        return Unpickler(self._bytes(f'{self.folder}/data.pkl', MAX_PICKLE)).run()

    def check(self, storage: Storage) -> str:
        """Check that a storage exists, without reading it; returns the name of its record."""
        name = f'{self.folder}/data/{storage.key}'
        if name not in self.records:
            raise DamagedError(f'the record {name!r} is missing')
        if self.records[name].size != size_of(storage):
            raise RefusedError(
                f'the record {name!r} has {self.records[name].size} bytes, where {size_of(storage)} are expected'
            )
        return name

    def memory(self, storage: Storage) -> Tensor:
        """A storage's bytes, (n,) uint8."""
        name = self.check(storage)
        memory = torch.empty(size_of(storage), dtype=torch.uint8)
        self._read(name, memoryview(memory.numpy()))
        return memory

    def check_rest(self) -> None:
        """Read the rest of the file, to check that it is whole.

        Raises:
            DamagedError: a record is damaged.
        """
        for name in sorted(self._unread, key=lambda name: self.records[name].start):
            self._read(name, None)

    def _bytes(self, name: str, most: int) -> bytes:
        record = self.records[name]
        if record.size > most:
            raise RefusedError(f'the record {name!r} has {record.size} bytes, more than any checkpoint has')
        self.file.seek(record.start)
        content = self.file.read(record.size)
        self._check(name, len(content), zlib.crc32(content))
        return content

    def _read(self, name: str, target: memoryview | None) -> None:
        """Read a record, into memory of its size or only for its checksum."""
        record = self.records[name]
        self.file.seek(record.start)
        count, checksum = 0, 0
        scratch = memoryview(bytearray(min(_CHUNK, record.size))) if target is None else None
        while count < record.size:
            stop = min(count + _CHUNK, record.size)
            part = scratch[: stop - count] if target is None else target[count:stop]
            read = self.file.readinto(part)
            if not read:
                break
            checksum = zlib.crc32(part[:read], checksum)
            count += read
        self._check(name, count, checksum)

    def _check(self, name: str, count: int, checksum: int) -> None:
        if count != self.records[name].size:
            raise DamagedError(f'it is cut off within the record {name!r}')
        if checksum != self.records[name].checksum:
            raise DamagedError(f'the record {name!r} is not what was written')
        self._unread.discard(name)


def _read_directory(file: BinaryIO) -> dict[str, _Record]:
    """The records of an archive, by their names."""
    size = file.seek(0, os.SEEK_END)
    try:
        count, start, end = _find_directory(file, size)
        file.seek(start)
        directory = file.read(end - start)
        records, spans, position = {}, [], 0
        for _ in range(count):
            entry = _Entry.read(directory, position)
            position += entry.length
            if entry.offset + entry.size > start:
                raise DamagedError(f'cut off after {size} bytes, or overwritten: {entry.name!r} is beyond its end')
            if entry.name in records:
                raise RefusedError(f'the record {entry.name!r} comes twice')
            begin = _check_local_header(file, entry)
            spans.append((entry.offset, begin + entry.size))
            records[entry.name] = _Record(begin, entry.size, entry.checksum)
    except (struct.error, UnicodeDecodeError) as error:
        raise DamagedError(f'cut off after {size} bytes, or overwritten ({error})') from error
    if position != len(directory):
        raise DamagedError('its directory has another size than it says')
    spans.sort()
    ends = [0, *(stop for _, stop in spans)]
    if not spans or spans[0][0] != 0 or any(begin < stop for (begin, _), stop in zip(spans, ends, strict=False)):
        raise RefusedError('its records lie within each other, or not at its beginning')
    if ends[-1] > start:
        raise DamagedError(f'cut off after {size} bytes, or overwritten: a record reaches into the directory')
    return records


def _find_directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """The number of records of an archive, and the start and end of its directory.

    torch writes no comment at the end of an archive, and nothing between the directory and its end record.
    """
    missing = DamagedError(f'cut off after {size} bytes: the directory at its end is missing')
    if size < _END.size:
        raise missing
    end = size - _END.size
    file.seek(end)
    magic, *disks, _, count, length, start, comment = _END.unpack(file.read(_END.size))
    if magic != b'PK\5\6':
        raise missing
    if end >= _LOCATOR.size + _END_64.size:
        file.seek(end - _LOCATOR.size - _END_64.size)
        magic, *_, count_64, length_64, start_64 = _END_64.unpack(file.read(_END_64.size))
        if file.read(4) == b'PK\6\7':
            if magic != b'PK\6\6':
                raise missing
            count, length, start = count_64, length_64, start_64
            end -= _LOCATOR.size + _END_64.size
    if length > MAX_DIRECTORY:
        raise RefusedError(f'its directory has {length} bytes, more than that of any checkpoint')
    if any(disks) or comment or start + length != end or count * _Entry.FORMAT.size > length:
        raise DamagedError(f'cut off after {size} bytes, or overwritten: what its end says of the directory is wrong')
    return count, start, end


@dataclass(frozen=True)
class _Entry:
    """An entry of the directory; `length` is its own number of bytes, and `offset` that of the record's header."""

    FORMAT: ClassVar = struct.Struct('<4s6H3I5H2I')

    name: str
    size: int
    checksum: int
    offset: int
    length: int

    @classmethod
    def read(cls, directory: bytes, position: int) -> '_Entry':
        """Read and check the entry at a position.

        Raises:
            DamagedError, RefusedError: it is damaged, or not as torch writes it.
        """
        fields = cls.FORMAT.unpack_from(directory, position)
        magic, _, _, flags, method, _, _, checksum, packed, size, *lengths, disk, _, attributes, offset = fields
        if magic != b'PK\1\2' or disk:
            raise DamagedError('an entry of its directory is overwritten')
        begin = position + cls.FORMAT.size
        stop = begin + sum(lengths)
        if stop > len(directory):
            raise DamagedError('an entry of its directory is overwritten')
        name = directory[begin : begin + lengths[0]].decode('utf-8')
        extra = directory[begin + lengths[0] : begin + lengths[0] + lengths[1]]
        size, packed, offset = _wide(extra, size, packed, offset)
        if method != zipfile.ZIP_STORED or packed != size:
            raise RefusedError(f'the record {name!r} is compressed, which torch.save does not do')
        if flags & 1 or stat.S_ISLNK(attributes >> 16) or attributes & 0x10 or name.endswith('/'):
            raise RefusedError(f'the record {name!r} is encrypted, a link or a folder')
        return cls(name, size, checksum, offset, stop - position)


def _wide(extra: bytes, *values: int) -> list[int]:
    """Numbers of an entry; those that do not fit into 32 bits are in an extra field."""
    position, wide = 0, b''
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from('<HH', extra, position)
        if kind == 1:
            wide = extra[position + 4 : position + 4 + length]
        position += 4 + length
    found = []
    for value in values:
        if value == 0xFFFFFFFF:
            value, wide = struct.unpack_from('<Q', wide)[0], wide[8:]
        found.append(value)
    return found


def _check_local_header(file: BinaryIO, entry: _Entry) -> int:
    """Check that a record's header agrees with the directory; returns the start of the record's bytes."""
    file.seek(entry.offset)
    header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    name = file.read(header[9])
    if header[0] != ZIP_MAGIC or header[3] != zipfile.ZIP_STORED or name != entry.name.encode('utf-8'):
        raise DamagedError(f'the header of the record {entry.name!r} is not what the directory says')
    return entry.offset + _LOCAL_HEADER.size + header[9] + header[10]


def _foreign_archive(names: dict[str, _Record]) -> str:
    if any(name.endswith('/constants.pkl') for name in names):
        return 'it is a TorchScript model, and weights are expected: save model.state_dict()'
    return f'it is a zip archive that torch.save has not written: it holds {", ".join(map(repr, list(names)[:3]))}'


class LegacyFile:
    """A file of torch's format before 1.6, open for reading.

    It has no checksums, so that damage within the weights is not detected.

    Args:
        file: File, at its beginning.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        self.places: dict[str, tuple[int, int]] = {}  # start and number of bytes of each storage

    def load(self) -> object:
        """The pickled object, as `records`."""
        window = min(_WINDOW, self.size)
        while True:
            self.file.seek(0)
            data = self.file.read(window)
            try:
                return self._load(Unpickler(data))
            except RefusedError:
                if window >= min(self.size, MAX_PICKLE):
                    raise
                window = min(2 * window, self.size, MAX_PICKLE)

    def _load(self, unpickler: Unpickler) -> object:
        number, version, system = (unpickler.run() for _ in range(3))
        items = system.items if type(system) is DictData else ()
        little = next((value for key, value in items if key == 'little_endian'), None)
        if number != LEGACY_NUMBER or version != LEGACY_VERSION or little is not True:
            raise RefusedError('it is of a version or byte order of torch.save that is not read')
        result = unpickler.run()
        keys = unpickler.run()
        if type(keys) is not list or not all(type(key) is str for key in keys):
            raise RefusedError('its list of storages is not a list of strings')
        storages = {storage.key: storage for storage in unpickler.storages}
        self.places.clear()  # of a part of the file that was too short
        place = unpickler.position
        for key in keys:
            if key not in storages or key in self.places:
                raise RefusedError(f'its storage {key!r} belongs to no tensor, or comes twice')
            size = size_of(storages[key])
            self.file.seek(place)
            head = self.file.read(8)
            if len(head) < 8 or place + 8 + size > self.size:
                raise DamagedError(f'cut off after {self.size} bytes')
            if struct.unpack('<q', head)[0] != storages[key].count:
                raise DamagedError(f'its storage {key!r} has another size than its tensors say')
            self.places[key] = place + 8, size
            place += 8 + size
        return result

    def check(self, storage: Storage) -> None:
        """Check that a storage exists, without reading it."""
        if storage.key not in self.places:
            raise DamagedError(f'its storage {storage.key!r} is missing')
        if self.places[storage.key][1] != size_of(storage):
            raise RefusedError(f'its storage {storage.key!r} has another size than a tensor says')

    def memory(self, storage: Storage) -> Tensor:
        """A storage's bytes, (n,) uint8."""
        self.check(storage)
        memory = torch.empty(size_of(storage), dtype=torch.uint8)
        self.file.seek(self.places[storage.key][0])
        if self.file.readinto(memoryview(memory.numpy())) != len(memory):
            raise DamagedError(f'cut off after {self.size} bytes')
        return memory

    def check_rest(self) -> None:
        """Does nothing, since there are no checksums."""


def size_of(storage: Storage) -> int:
    """Bytes of a storage.

    Raises:
        RefusedError: its class is not one of torch's dense ones.
    """
    if storage.kind not in DTYPES:
        raise RefusedError(f'a tensor is kept in a {storage.kind}, which is not read')
    return storage.count * DTYPES[storage.kind].itemsize
