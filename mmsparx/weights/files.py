"""Files of weights: their kinds, and the function that reads all of them.

torch's two formats (see `archive`) and safetensors are read; a message names every other kind of file. Only
regular files are opened, since others may block or never end.
"""

import errno
import gc
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from mmengine.logging import print_log

from mmsparx.weights.archive import LEGACY_MAGIC, ZIP_MAGIC, DamagedError, LegacyFile, ZipArchive
from mmsparx.weights.reading import Location, Rebuilder, to_device
from mmsparx.weights.records import RefusedError

SUFFIXES = ('.pth', '.pt', '.safetensors')
# Entries of a checkpoint for the weights, and for values that belong to each of them: none may be left out here.
WEIGHT_KEYS = ('state_dict', 'ema_state_dict', 'state_dict_ema', 'model', 'model_ema', 'optimizer')
# torch.hub and mmengine put the first digits of the SHA-256 into a name. Eight decimal digits are a date, or a count.
NAMED_HASH = re.compile(r'-(?=\d*[a-f])([0-9a-f]{8,64})$')
MAX_TEXT = 16 * 2**20  # characters of an entry of safetensors' metadata
_OTHER_KINDS = {
    b'\x1f\x8b': 'a gzip archive',
    b'BZh': 'a bzip2 archive',
    b'\xfd7zXZ': 'an xz archive',
    b'\x93NUMPY': 'a numpy array',
    b'\x89HDF': 'an HDF5 file',
    b'\x89PNG': 'a PNG image',
    b'\xff\xd8\xff': 'a JPEG image',
}
_AGAIN = 'Copy or download it again, or take an earlier checkpoint.'
_SAVE = 'If it is your own, load it where it was written and save model.state_dict() alone.'


class UnreadableError(RuntimeError):
    """A file is unavailable, damaged, or not a file of weights; the message says which, and how to fix it."""


class MissingError(UnreadableError):
    """There is no such file or address."""


def read_checkpoint(path: str | os.PathLike, location: Location = None, *, tensors: bool = True) -> dict:
    """Read a file of weights or a checkpoint, safely, and check that it is whole.

    Args:
        path: Regular file. If its name ends in `-` and 8 or more digits of a SHA-256, its contents must have it.
        location: Device of the tensors, as `torch.load` takes it; None means the CPU.
        tensors: True to read tensors. Otherwise they are on the meta device, and the file is still read to its end.

    Returns:
        The contents of the file, in the types that `reading` lists. Other entries that are not weights are left out,
        and a line in the log names them.

    Raises:
        UnreadableError: see its description.
        ModuleNotFoundError: the package safetensors is needed and not installed.
    """
    path = os.path.expanduser(os.fspath(path))
    try:
        with open_file(path) as file, _garbage_collection_paused():
            _check_named_hash(file, path)
            found = _read(file, path, location, tensors)
    except DamagedError as error:
        raise UnreadableError(f'{path} is damaged: {error}. {_AGAIN}') from error
    except RefusedError as error:
        raise UnreadableError(f'{path} was not loaded: {error}') from error
    except RecursionError as error:
        raise UnreadableError(f'{path} was not loaded: it is nested more deeply than any checkpoint') from error
    except OSError as error:
        raise UnreadableError(f'{path} cannot be read: {error.strerror or error}') from error
    if not isinstance(found, dict):
        raise UnreadableError(f'{path} was not loaded: expected a dict of weights, got a {type(found).__name__}')
    return found


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Collect no garbage: reading makes none, and each pass over all objects takes 0.1 s and more."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(file: BinaryIO, path: str, location: Location, tensors: bool) -> object:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(4096)
    if head.startswith(ZIP_MAGIC):
        return _read_torch(ZipArchive(file), path, location, tensors)
    if head.startswith(LEGACY_MAGIC):
        return _read_torch(LegacyFile(file), path, location, tensors)
    if _is_safetensors(head):
        return _read_safetensors(path, location, tensors)
    raise RefusedError(_kind_of(head, size))


def _read_torch(archive: ZipArchive | LegacyFile, name: str, location: Location, tensors: bool) -> object:
    rebuild = Rebuilder(archive, location, tensors)
    try:
        content = rebuild(archive.load())
        for place, kind in rebuild.left_out.items():
            if place[0] in WEIGHT_KEYS:
                raise RefusedError(f'its entry {_place(place)} is an object of {kind}')
    except RefusedError as error:
        raise RefusedError(
            f'{error}. Only tensors, numbers, strings, and lists and dicts of them are read, and nothing that a file '
            f'asks to run is run. {_SAVE}'
        ) from error
    archive.check_rest()
    if rebuild.left_out:
        said = ', '.join(f'{_place(place)} ({kind})' for place, kind in list(rebuild.left_out.items())[:5])
        more = f' and {len(rebuild.left_out) - 5} more' if len(rebuild.left_out) > 5 else ''
        text = f'{name}: left out entries that are not weights and not understood: {said}{more}'
        print_log(text, logger='current', level=logging.WARNING)
    return content


def _place(path: tuple) -> str:
    return '.'.join('*' if part is None else printable(str(part)[:100]) for part in path)


def printable(text: str) -> str:
    """A file's text for a message, without control characters, which a terminal would obey."""
    return ''.join(x if x.isprintable() else '?' for x in text)


def open_file(path: str) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        UnreadableError: it does not exist, or is another kind of file.
    """
    try:
        # Opening must not block: a FIFO that nobody writes to would never be opened.
        number = os.open(path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_BINARY', 0))
    except (OSError, ValueError) as error:
        raise MissingError(_why_not_opened(path, error)) from error
    mode = os.fstat(number).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(number, 'rb')
    os.close(number)
    kinds = {'a folder': stat.S_ISDIR, 'a named pipe (FIFO)': stat.S_ISFIFO, 'a socket': stat.S_ISSOCK}
    kind = next((kind for kind, is_one in kinds.items() if is_one(mode)), 'a device')
    raise UnreadableError(f'{path} is {kind}, and a file of weights is expected')


def _why_not_opened(path: str, error: Exception) -> str:
    if getattr(error, 'errno', None) == errno.ELOOP:
        return f'{path} is a symbolic link that leads back to itself'
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return f'{path} is a symbolic link to {os.readlink(path)}, which does not exist'
    if isinstance(error, FileNotFoundError):
        return f'the weights {path} are not available: there is no such file'
    return f'the weights {path} are not available: {getattr(error, "strerror", None) or error}'


def _kind_of(head: bytes, size: int) -> str:
    """A clause that says what a file is, by its first bytes, if it is not a checkpoint."""
    if not size:
        return f'it is empty. {_AGAIN}'
    if not head.strip(b'\0'):
        return f'it begins with {len(head)} zeros, as a copy does that was cut off. {_AGAIN}'
    start = head.lstrip().lower()
    if start.startswith((b'<!doctype html', b'<html')):
        return 'it is a web page (HTML), as servers send it in place of a missing file. Download it again'
    if head.startswith(b'version https://git-lfs'):
        return 'it is a pointer of Git LFS, and not the file itself: run git lfs pull'
    for magic, kind in _OTHER_KINDS.items():
        if head.startswith(magic):
            return f'it is {kind}, and a file of torch.save or safetensors is expected'
    if head[257:262] == b'ustar':
        return 'it is a tar archive, and a file of torch.save or safetensors is expected: unpack it first'
    if head[:1] == b'\x80' and head[1:2] in b'\2\3\4\5':
        return f'it is a pickle that torch.save has not written. {_SAVE}'
    try:
        text = head[:200].decode('utf-8')
    except UnicodeDecodeError:
        text = ''
    if text and all(x.isprintable() or x.isspace() for x in text):
        return f'it is a text file that begins with {text.strip()[:60]!r}'
    return f'it is damaged, or no checkpoint: no known format begins with {head[:8]!r}. {_AGAIN}'


def _is_safetensors(head: bytes) -> bool:
    length = int.from_bytes(head[:8], 'little')
    return 2 <= length <= 100_000_000 and head[8:9] == b'{'  # the format's own limit


def _read_safetensors(path: str, location: Location, read_tensors: bool) -> dict:
    package = safetensors_package()
    try:
        with package.safe_open(path, framework='pt') as file:
            tensors = {}
            for name in file.keys():  # noqa: SIM118
                mapped = file.get_tensor(name)
                # Copies: the package gives parts of the mapped file, which may change or be cut off later.
                tensors[name] = to_device(mapped.clone(), location) if read_tensors else mapped.to('meta')
            texts = file.metadata() or {}
    except package.SafetensorError as error:
        raise DamagedError(str(error)) from error
    names, meta = (_from_json(texts.get(f'mmsparx.{key}', 'null'), key) for key in ('names', 'meta'))
    # The order is ours to restore where nobody has added or taken away a tensor.
    if type(names) is list and all(type(name) is str for name in names) and sorted(tensors) == sorted(names):
        tensors = {name: tensors[name] for name in names}
    if not all(name.isprintable() for name in tensors):
        raise RefusedError('a name in it is no printable string')
    return tensors if not isinstance(meta, dict) else {'meta': meta, 'state_dict': tensors}


def _from_json(text: str, key: str) -> object:
    """A value that `to_json` has written."""
    if len(text) > MAX_TEXT:
        raise RefusedError(f'its metadata mmsparx.{key} has {len(text)} characters, more than any checkpoint has')
    try:
        return _decoded(json.loads(text))
    except (ValueError, TypeError, AttributeError) as error:
        raise RefusedError(f'its metadata mmsparx.{key} is not as mmsparx writes it: {error}') from error


def _decoded(value: object) -> object:
    if isinstance(value, list):
        return [_decoded(x) for x in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == 'tuple':
        return tuple(map(_decoded, content))
    if kind != 'dict' or not all(type(key) in (str, int, bool, type(None)) for key, _ in content):
        raise ValueError(f'unknown {kind[:20]!r}')
    return {key: _decoded(x) for key, x in content}


def to_json(value: object) -> str:
    """Numbers, strings, lists, tuples and dicts of them as JSON, from which tuples and integers as keys come back.

    Raises:
        ValueError: something else.
    """
    return json.dumps(_encoded(value))


def is_json(value: object) -> bool:
    """Whether `to_json` takes a value."""
    try:
        to_json(value)
    except ValueError:
        return False
    return True


def _encoded(value: object) -> object:
    if type(value) in (str, int, float, bool, type(None)):
        return value
    if type(value) is list:
        return [_encoded(x) for x in value]
    if type(value) is tuple:
        return {'tuple': [_encoded(x) for x in value]}
    if isinstance(value, dict) and all(type(key) in (str, int, bool, type(None)) for key in value):
        return {'dict': [[key, _encoded(x)] for key, x in value.items()]}
    raise ValueError(f'expected numbers, strings, and lists and dicts of them, got {type(value).__name__}')


def safetensors_package():
    """The package.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'files of safetensors need the package of that name: pip install safetensors', name='safetensors'
        ) from error
    return safetensors


def _check_named_hash(file: BinaryIO, path: str) -> None:
    """Check that a file has the SHA-256 in its name, if there is one."""
    stem, suffix = os.path.splitext(path)
    wanted = NAMED_HASH.search(stem)
    if wanted is None or suffix not in SUFFIXES:
        return
    digest = hashlib.sha256()
    while chunk := file.read(2**20):
        digest.update(chunk)
    if not digest.hexdigest().startswith(wanted[1]):
        raise UnreadableError(
            f'{path} is damaged, or was renamed: the SHA-256 of its contents begins with '
            f'{digest.hexdigest()[: len(wanted[1])]}, and not with {wanted[1]} as its name says. '
            'Copy or download it again; take the digits out of the name if they mean something else.'
        )
