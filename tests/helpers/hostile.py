"""Generated hostile and damaged files of weights: every opcode, stand-in, container, holder of a config, format.

`write_all(folder)` writes them. Nothing here is loaded.
"""

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

PROTO, STOP = b'\x80\x02', b'.'
MARK, NONE, EMPTY_TUPLE, EMPTY_DICT, EMPTY_LIST = b'(', b'N', b')', b'}', b']'


# Pieces of pickles, including some that no pickler would write.
def name(module: str, qualified: str) -> bytes:
    return f'c{module}\n{qualified}\n'.encode()


def text(x: str) -> bytes:
    raw = x.encode()
    return b'X' + struct.pack('<I', len(raw)) + raw


def number(x: int) -> bytes:
    if -(2**31) <= x < 2**31:
        return b'J' + struct.pack('<i', x)
    raw = x.to_bytes(x.bit_length() // 8 + 1, 'little', signed=True)
    return b'\x8a' + bytes([len(raw)]) + raw


def tuple_(*parts: bytes) -> bytes:
    return MARK + b''.join(parts) + b't'


def list_(*parts: bytes) -> bytes:
    return EMPTY_LIST + MARK + b''.join(parts) + b'e'


def dict_(**items: bytes) -> bytes:
    return EMPTY_DICT + MARK + b''.join(text(key) + value for key, value in items.items()) + b'u'


def call(function: bytes, *args: bytes) -> bytes:
    return function + tuple_(*args) + b'R'


def raw_bytes(x: bytes) -> bytes:
    return call(name('_codecs', 'encode'), text(x.decode('latin1')), text('latin1'))


def ordered(*items: bytes) -> bytes:
    return call(name('collections', 'OrderedDict')) + MARK + b''.join(items) + b'u'


def storage(kind: str = 'FloatStorage', key: str = '0', count: int = 4) -> bytes:
    return tuple_(text('storage'), name('torch', kind), text(key), text('cpu'), number(count)) + b'Q'


def tensor(place: bytes | None = None, offset: int = 0, size=(4,), stride=(1,)) -> bytes:
    return call(
        name('torch._utils', '_rebuild_tensor_v2'),
        storage() if place is None else place,
        number(offset),
        tuple_(*map(number, size)),
        tuple_(*map(number, stride)),
        b'\x89',
        call(name('collections', 'OrderedDict')),
    )


def array_type(code: str = 'f8') -> bytes:
    return call(name('numpy', 'dtype'), text(code), b'\x89', b'\x88')


def array(shape=(2,), dtype: bytes | None = None, content: bytes | None = None) -> bytes:
    empty = call(
        name('numpy._core.multiarray', '_reconstruct'), name('numpy', 'ndarray'), tuple_(number(0)), raw_bytes(b'b')
    )
    content = raw_bytes(bytes(16)) if content is None else content
    return empty + tuple_(number(1), tuple_(*map(number, shape)), dtype or array_type(), b'\x89', content) + b'b'


def history(state: bytes) -> bytes:
    return name('mmengine.logging.history_buffer', 'HistoryBuffer') + EMPTY_TUPLE + b'\x81' + state + b'b'


def config(marker: Path) -> bytes:
    return text(f'open({str(marker)!r}, "w").write("x")\nmodel = dict(type="X")\n')


def checkpoint(**more: bytes) -> bytes:
    """A whole checkpoint of mmengine's Runner, of one weight."""
    content = dict(
        meta=dict_(epoch=number(1), iter=number(1), seed=number(0)),
        state_dict=dict_(weight=tensor()),
        message_hub=dict_(log_scalars=EMPTY_DICT, runtime_info=EMPTY_DICT, resumed_keys=EMPTY_DICT),
        optimizer=dict_(state=EMPTY_DICT, param_groups=EMPTY_LIST),
        param_schedulers=EMPTY_LIST,
    )
    return dict_(**(content | more))


# Formats.
def records_of(pickled: bytes, **more: bytes) -> dict[str, bytes]:
    """The records of torch's zip format; `more` replaces the contents of some of them."""
    contents = {'data.pkl': PROTO + pickled + STOP, 'byteorder': b'little', 'data/0': bytes(16), 'version': b'3\n'}
    return {f'archive/{key}': content for key, content in {**contents, **more}.items()}


def zipped(pickled: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    return archived(records_of(pickled, **more), compression)


def archived(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', compression) as archive:
        for key, content in records.items():
            archive.writestr(key, content)
    return buffer.getvalue()


def by_hand(records: dict[str, bytes], inner: dict[str, bytes] | None = None, end: bytes | None = None) -> bytes:
    """A zip archive with correct headers and checksums.

    Args:
        records: Contents by name.
        inner: Further records, which lie within a record of their own.
        end: Bytes after the directory, instead of the usual record.
    """
    body, entries = b'', []

    def add(key: str, content: bytes, start: int) -> bytes:
        head = (0, 0, 0, 0, zlib.crc32(content), len(content), len(content), len(key), 0)
        entry = struct.pack('<4s6H3I5H2I', b'PK\1\2', 20, 20, *head, 0, 0, 0, 0, start)
        entries.append(entry + key.encode())
        return struct.pack('<4s5H3I2H', b'PK\3\4', 20, *head) + key.encode() + content

    for key, content in records.items():
        body += add(key, content, len(body))
    if inner:
        start = len(body) + 30 + len('archive/outer')
        nested = b''
        for key, content in inner.items():
            nested += add(key, content, start + len(nested))
        body += add('archive/outer', nested, len(body))
    directory = b''.join(entries)
    usual = struct.pack('<4s4H2IH', b'PK\5\6', 0, 0, len(entries), len(entries), len(directory), len(body), 0)
    return body + directory + (usual if end is None else end)


def stream(pickled: bytes, head: bytes | None = None, keys: bytes | None = None, tail: bytes | None = None) -> bytes:
    """torch's format before 1.6."""
    if head is None:
        head = PROTO + number(0x1950A86A20F9469CFC6C) + STOP + PROTO + number(1001) + STOP
        head += PROTO + dict_(protocol_version=number(1001), little_endian=b'\x88') + STOP
    keys = list_(text('0')) if keys is None else keys
    tail = struct.pack('<q', 4) + bytes(16) if tail is None else tail
    return head + PROTO + pickled.replace(b'tQ', NONE + b'tQ') + STOP + PROTO + keys + STOP + tail


def safetensors(header: bytes, data: bytes = bytes(16), length: int | None = None) -> bytes:
    return struct.pack('<Q', len(header) if length is None else length) + header + data


def _calls(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Each opcode by which a pickle runs something, with a function that leaves the marker."""
    system, command = name('posix', 'system'), text(f'echo > "{marker}"')
    opener = name('builtins', 'open')
    writes = text(str(marker)), text('w')
    yield 'reduce', system + tuple_(command) + b'R'
    yield 'reduce_of_python_2', name('__builtin__', 'open') + tuple_(*writes) + b'R'
    yield 'stack_global', text('builtins') + text('open') + b'\x93' + tuple_(*writes) + b'R'
    yield 'object', MARK + opener + b''.join(writes) + b'o'
    yield 'instance', MARK + b''.join(writes) + b'ibuiltins\nopen\n'
    yield 'new_object', name('io', 'FileIO') + tuple_(*writes) + b'\x81'
    yield 'new_object_with_keywords', name('io', 'FileIO') + tuple_(text(str(marker))) + dict_(mode=text('w')) + b'\x92'
    yield 'through_getattr', call(call(name('builtins', 'getattr'), name('os', 'path'), text('os')), command)
    yield 'through_a_method', call(call(name('builtins', 'getattr'), name('builtins', 'str'), text('format')), command)
    rebuild = name('torch._tensor', '_rebuild_from_type_v2')
    yield 'through_torchs_rebuild', call(rebuild, opener, name('torch', 'Tensor'), tuple_(*writes), NONE)
    yield (
        'through_copyreg',
        call(name('copyreg', '_reconstructor'), name('io', 'FileIO'), name('builtins', 'object'), NONE),
    )
    yield 'through_map', call(name('builtins', 'map'), opener, list_(*writes))
    yield 'through_partial', call(name('functools', 'partial'), opener, *writes)
    yield 'eval', call(name('builtins', 'eval'), text(f'open({str(marker)!r}, "w")'))
    yield 'import', call(name('importlib', 'import_module'), text('antigravity'))
    yield 'load', call(name('torch', 'load'), text(str(marker)))
    yield 'persistent_text', b'Pcode\n'
    yield 'persistent_object', tuple_(text('module'), opener) + b'Q'
    yield 'extension', b'\x82\x01'
    yield 'buffer', b'\x97'
    yield 'build_of_a_function', opener + dict_(x=number(1)) + b'b'
    yield 'build_of_a_class', name('collections', 'OrderedDict') + tuple_(NONE, dict_(get=number(1))) + b'b'
    yield 'build_of_a_list', EMPTY_LIST + dict_(append=opener) + b'b'
    yield 'unknown_opcode', b'\xff'


def _stand_ins(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Each record with unsuitable contents."""
    objects = array_type('O')
    yield 'array_of_objects', array((200000,), objects, list_(number(1)))
    yield 'array_of_pointers', array((2,), objects, raw_bytes(b'A' * 16))
    yield 'array_of_structures', array((2,), call(name('numpy', 'dtype'), list_(tuple_(text('a'), text('O')))))
    yield 'array_of_voids', array((2,), array_type('V8'))
    yield (
        'array_with_fields',
        array((2,), array_type() + tuple_(number(3), text('<'), NONE, tuple_(text('a')), dict_(a=NONE)) + b'b'),
    )
    yield 'array_too_short', array((2**40,))
    yield 'array_of_overflowing_shape', array((2**32, 2**32, 2**32))
    yield 'array_of_negative_shape', array((-1, 2))
    yield 'array_called', call(name('numpy', 'ndarray'), tuple_(number(1)), text('O'), raw_bytes(b'AAAAAAAA'))
    yield (
        'array_of_another_class',
        call(
            name('numpy._core.multiarray', '_reconstruct'), name('numpy', 'matrix'), tuple_(number(0)), raw_bytes(b'b')
        ),
    )
    yield (
        'array_filled_twice',
        array() + tuple_(number(1), tuple_(number(2)), array_type(), b'\x89', raw_bytes(bytes(16))) + b'b',
    )
    yield 'scalar_of_objects', call(name('numpy._core.multiarray', 'scalar'), objects, raw_bytes(b'A' * 8))
    yield 'scalar_too_short', call(name('numpy._core.multiarray', 'scalar'), array_type(), raw_bytes(b'A'))
    yield (
        'history_of_objects',
        history(
            dict_(max_length=number(10), _log_history=array((1,), objects, list_(number(1))), _count_history=array())
        ),
    )
    yield 'history_of_nothing', history(EMPTY_DICT)
    yield (
        'history_of_other_lengths',
        history(
            dict_(max_length=number(10), _log_history=array(), _count_history=array((1,), None, raw_bytes(bytes(8))))
        ),
    )
    yield 'history_too_long', history(dict_(max_length=number(1), _log_history=array(), _count_history=array()))
    yield 'history_called', call(name('mmengine.logging.history_buffer', 'HistoryBuffer'), array(), array())
    yield 'encoding_punycode', call(name('_codecs', 'encode'), text('\u4e00\u4e01' * 50000), text('punycode'))
    yield (
        'encoding_again_and_again',
        text('a' * 10**6)
        + b'q\x00'
        + (name('_codecs', 'encode') + b'h\x00' + text('latin1') + b'\x86R') * 5000
        + b'0' * 5000,
    )
    for key, part in {
        'out_of_its_storage': tensor(offset=1),
        'far_out_of_its_storage': tensor(offset=2**61),
        'larger_than_its_storage': tensor(size=(5,)),
        'expanded': tensor(size=(10**12,), stride=(0,)),
        'overlapping': tensor(size=(3, 4), stride=(0, 1)),
        'of_negative_size': tensor(size=(-4,)),
        'of_negative_stride': tensor(stride=(-1,)),
        'of_negative_offset': tensor(offset=-1),
        'of_overflowing_size': tensor(size=(2**32, 2**32), stride=(0, 0)),
        'of_many_dimensions': tensor(size=(1,) * 1000, stride=(1,) * 1000),
        'of_another_stride': tensor(stride=(1, 1)),
        'without_storage': tensor(number(0)),
        'of_a_storage_of_two_sizes': tensor(storage(count=3), size=(3,)),
        'of_a_missing_storage': tensor(storage(key='7')),
        'of_a_storage_elsewhere': tensor(storage(key='../../data.pkl')),
        'quantised': tensor(storage('QInt8Storage', count=16)),
        'of_no_storage_class': tensor(storage('nn', count=4)),
        'with_hooks': call(
            name('torch._utils', '_rebuild_tensor_v2'),
            storage(),
            number(0),
            tuple_(number(4)),
            tuple_(number(1)),
            b'\x89',
            ordered(text('x'), name('builtins', 'print')),
        ),
        'of_a_module_as_type': call(
            name('torch._utils', '_rebuild_tensor_v3'),
            storage('UntypedStorage', count=16),
            number(0),
            tuple_(number(4)),
            tuple_(number(1)),
            b'\x89',
            EMPTY_DICT,
            name('torch', 'onnx'),
        ),
        'sparse': call(name('torch._utils', '_rebuild_sparse_tensor'), name('torch', 'sparse_coo'), EMPTY_TUPLE),
        'on_no_device': call(
            name('torch._utils', '_rebuild_meta_tensor_no_storage'),
            name('torch', 'float32'),
            EMPTY_TUPLE,
            EMPTY_TUPLE,
            b'\x89',
        ),
    }.items():
        yield f'tensor_{key}', part
    yield 'parameter_of_nothing', call(name('torch._utils', '_rebuild_parameter'), number(1), b'\x88', EMPTY_DICT)
    yield 'tensor_class', name('torch', 'FloatTensor') + EMPTY_TUPLE + b'R'


def _containers(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Each container: in itself, too large, and with invalid keys and attributes."""
    yield 'ordered_dict_with_methods', ordered() + dict_(get=name('builtins', 'set')) + b'b'
    yield 'ordered_dict_with_slots', ordered() + tuple_(NONE, dict_(get=number(1))) + b'b'
    yield 'metadata_that_is_none', ordered() + dict_(_metadata=number(1)) + b'b'
    yield 'counter_of_texts', call(name('collections', 'Counter'), dict_(a=text('x')))
    yield 'list_in_itself', EMPTY_LIST + b'q\x00h\x00a'
    yield 'dict_in_itself', EMPTY_DICT + b'q\x00' + text('x') + b'h\x00s'
    yield 'tuple_in_itself', EMPTY_LIST + b'q\x00h\x00\x85a'
    yield 'deep_lists', EMPTY_LIST * 100000 + b'a' * 99999
    yield 'deep_tuples', EMPTY_TUPLE + b'\x85' * 100000
    yield 'deep_dicts', (EMPTY_DICT + text('x')) * 50000 + NONE + b's' * 50000
    laughs = (
        EMPTY_LIST
        + b'q\x00'
        + b''.join(
            EMPTY_LIST + MARK + b'h' + bytes([i]) + (b'h' + bytes([i])) * 9 + b'eq' + bytes([i + 1]) for i in range(30)
        )
    )
    yield 'billion_laughs', laughs + b''.join(b'\x86' for _ in range(30))
    yield 'many_objects', MARK + EMPTY_DICT * 4_000_000 + b'l'
    yield (
        'many_copies',
        list_(*[tuple_(number(i), NONE) for i in range(2000)])
        + b'q\x00'
        + (name('collections', 'OrderedDict') + b'h\x00\x85R0') * 5000,
    )
    copied = MARK + number(1) * 500_000 + b'tq\x00' + (name('builtins', 'set') + b'h\x00\x85R') * 200_000
    yield 'tuple_copied_again_and_again', MARK + copied + b'l'
    large = array((10**6,), None, raw_bytes(bytes(8 * 10**6))) + b'q\x00'
    yield 'array_again_and_again', MARK + large + b'h\x00' * 2000 + b'l'
    kept = array((10**6,), None, raw_bytes(bytes(8 * 10**6)))
    kept = history(dict_(max_length=number(10**6), _log_history=kept + b'q\x01', _count_history=b'h\x01'))
    yield 'history_again_and_again', MARK + kept + b'q\x00' + b'h\x00' * 2000 + b'l'
    yield 'array_of_endless_rows', array((2**40, 0), None, raw_bytes(b''))
    yield 'array_of_an_impossible_shape', array((0, 2**61, 2**61), None, raw_bytes(b''))
    yield 'key_that_is_a_list', EMPTY_DICT + EMPTY_LIST + NONE + b's'
    yield 'key_that_is_a_tensor', EMPTY_DICT + tensor() + NONE + b's'
    collisions = b''.join(number(i * (2**61 - 1)) + NONE for i in range(20000))
    yield 'keys_of_one_hash', EMPTY_DICT + MARK + collisions + b'u'
    yield 'set_of_one_hash', call(name('builtins', 'set'), list_(*[number(i * (2**61 - 1)) for i in range(20000)]))
    yield 'set_of_lists', call(name('builtins', 'set'), list_(EMPTY_LIST))
    yield 'giant_number', b'\x8b' + struct.pack('<I', 10**6) + b'\x01' * 10**6
    yield 'name_with_escapes', EMPTY_DICT + text('\x1b[2J\n') + tensor() + b's'
    yield 'text_of_surrogates', b'X' + struct.pack('<I', 3) + b'\xed\xa0\x80'
    yield 'name_without_end', b'c' + b'a' * 10**6


def _holders(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Whole checkpoints, most with a config's text where mmengine, an inferencer or an old version looks for it."""
    code = config(marker)
    info = dict_(cfg=code)
    hub = dict_(log_scalars=EMPTY_DICT, runtime_info=info, resumed_keys=EMPTY_DICT)
    meta = dict_(epoch=number(1), iter=number(1), seed=number(0), cfg=code, config=code)
    yield 'config_in_meta', checkpoint(meta=meta)
    yield 'config_in_the_hub', checkpoint(message_hub=hub)
    yield 'config_in_both', checkpoint(meta=meta, message_hub=hub)
    yield (
        'config_in_ordered_dicts',
        checkpoint(
            message_hub=ordered(text('runtime_info'), ordered(text('cfg'), code)),
            meta=ordered(text('cfg'), code, text('config'), code),
        ),
    )
    yield 'config_at_the_top', checkpoint(cfg=code, config=code)
    yield (
        'config_in_a_record',
        checkpoint(
            message_hub=call(
                name('numpy._core.multiarray', 'scalar'),
                call(name('numpy', 'dtype'), list_(tuple_(text('runtime_info'), text('O')))),
                list_(info),
            )
        ),
    )
    yield (
        'config_in_a_dict_with_methods',
        call(name('collections', 'OrderedDict'))
        + dict_(get=name('builtins', 'set'))
        + b'b'
        + MARK
        + text('meta')
        + meta
        + text('message_hub')
        + hub
        + text('state_dict')
        + EMPTY_DICT
        + b'u',
    )
    yield (
        'config_in_an_object',
        checkpoint(
            message_hub=name('types', 'SimpleNamespace') + EMPTY_TUPLE + b'\x81' + dict_(runtime_info=info) + b'b'
        ),
    )
    yield 'config_in_a_counter', checkpoint(message_hub=dict_(runtime_info=call(name('collections', 'Counter'), info)))
    yield 'storage_too_large', checkpoint(state_dict=dict_(w=tensor(storage(count=2**50), size=(2**50,))))
    yield 'storage_of_another_size', checkpoint(state_dict=dict_(w=tensor(storage(count=3), size=(3,))))
    yield 'config_as_bytes', checkpoint(message_hub=dict_(runtime_info=dict_(cfg=raw_bytes(b'open("x", "w")'))))


def _formats(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Malformed archives and other files."""
    good = checkpoint()
    whole = zipped(good)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, 'w', zipfile.ZIP_DEFLATED) as archive:
        with archive.open('archive/data.pkl', 'w', force_zip64=True) as file:
            for _ in range(500):
                file.write(PROTO + b'N0' * (1 << 19))
        archive.writestr('archive/byteorder', 'little')
    yield 'deflated_bomb.pth', bomb.getvalue()
    yield 'deflated_whole.pth', zipped(good, zipfile.ZIP_DEFLATED)
    yield 'bzip2.pth', zipped(good, zipfile.ZIP_BZIP2)
    twice = io.BytesIO(whole)
    with zipfile.ZipFile(twice, 'a') as archive:
        archive.writestr('archive/data/0', bytes(15) + b'x')  # zipfile warns, and writes it
    yield 'record_twice.pth', twice.getvalue()
    link = io.BytesIO(whole)
    with zipfile.ZipFile(link, 'a') as archive:
        info = zipfile.ZipInfo('archive/link')
        info.external_attr = 0o120777 << 16
        archive.writestr(info, '/etc/passwd')
    yield 'link_in_it.pth', link.getvalue()
    place = whole.rfind(b'PK\x01\x02')
    first = whole.find(b'PK\x01\x02')
    yield 'encrypted.pth', whole[: first + 8] + b'\x01' + whole[first + 9 :]
    yield 'folder_of_bytes.pth', whole[: place + 38] + struct.pack('<I', 0x10) + whole[place + 42 :]
    yield 'header_of_another_record.pth', whole[: place + 42] + struct.pack('<I', 0) + whole[place + 46 :]
    yield 'records_within_each_other.pth', by_hand(records_of(good), {'archive/data/1': bytes(8)})
    # The usual record at the end of these directories gives a small size, and another record a large one.
    large = struct.pack('<4sQ2H2I4Q', b'PK\6\6', 44, 45, 45, 0, 0, 10**9, 10**9, 10**12, 0)
    locator = struct.pack('<4sIQI', b'PK\6\7', 0, 0, 1)
    small = struct.pack('<4s4H2IH', b'PK\5\6', 0, 0, 1, 1, 46, 0, 0)
    yield 'directory_of_terabytes.pth', by_hand(records_of(good), end=large + locator + small)
    comment = struct.pack('<4s4H2IH', b'PK\5\6', 0, 0, 1, 1, 46, 0, len(small)) + small
    yield 'directory_in_a_comment.pth', by_hand(records_of(good), end=comment)
    yield 'prefixed.pth', b'PK\x03\x04' + b'x' * 100 + whole
    yield 'two_folders.pth', archived({**records_of(good), 'other/data/1': b'x'})
    yield 'no_pickle.pth', zipped(good).replace(b'data.pkl', b'data.pkx')
    yield 'torchscript.pth', archived({**records_of(good), 'archive/constants.pkl': b'x', 'archive/code/x.py': b''})
    yield 'torchscript_alone.pth', archived({'archive/constants.pkl': b'x', 'archive/code/x.py': b''})
    end = whole.rfind(b'PK\x05\x06')
    yield 'directory_of_gigabytes.pth', whole[: end + 12] + struct.pack('<I', 0xFFFFFFF0) + whole[end + 16 :]
    yield 'directory_of_many.pth', whole[: end + 8] + struct.pack('<HH', 60000, 60000) + whole[end + 12 :]
    yield 'big_endian.pth', zipped(good, byteorder=b'big')
    yield 'checksum.pth', zipped(good).replace(b'little', b'bigbig')
    yield 'cut_off.pth', whole[:-30]
    yield 'first_bit.pth', bytes([whole[0] ^ 1]) + whole[1:]
    yield 'flat.pth', zipped(dict_(weight=tensor()))
    yield 'no_dict.pth', zipped(list_(number(1)))
    yield 'no_pickle_at_all.pth', zipped(b'')
    # Files in the old format: with a call in each of the pickles, and with wrong sizes.
    runs = call(name('posix', 'system'), text(f'echo > "{marker}"'))
    number_, version = PROTO + number(0x1950A86A20F9469CFC6C) + STOP, PROTO + number(1001) + STOP
    yield 'stream_call_as_version.pth', number_ + PROTO + runs + STOP
    yield 'stream_call_as_system.pth', number_ + version + PROTO + runs + STOP
    yield 'stream_call_in_it.pth', stream(dict_(state_dict=EMPTY_DICT, x=runs))
    yield 'stream_call_as_keys.pth', stream(good, keys=runs)
    yield (
        'stream_of_too_large_storage.pth',
        stream(dict_(state_dict=dict_(w=tensor(storage(count=2**50), size=(2**50,))))),
    )
    two = dict_(state_dict=dict_(w=tensor(storage(count=2**50), size=(2**50,)), v=tensor()))
    yield 'stream_of_two_sizes.pth', stream(two)
    yield 'stream_of_another_size.pth', stream(good, tail=struct.pack('<q', 2**40) + bytes(16))
    yield 'stream_of_unknown_keys.pth', stream(good, keys=list_(text('7')))
    yield 'stream_cut_off.pth', stream(good)[:-8]
    yield 'bare_pickle.pth', PROTO + runs + STOP
    # safetensors.
    entry = {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]}
    yield 'header_of_exabytes.safetensors', safetensors(json.dumps({'w': entry}).encode(), length=2**60)
    yield 'header_cut_off.safetensors', safetensors(json.dumps({'w': entry}).encode()[:-3])
    yield (
        'offsets_beyond.safetensors',
        safetensors(json.dumps({'w': {**entry, 'data_offsets': [0, 2**50], 'shape': [2**48]}}).encode()),
    )
    yield 'offsets_within_each_other.safetensors', safetensors(json.dumps({'w': entry, 'v': entry}).encode())
    yield 'deep_header.safetensors', safetensors(b'{"w":' + b'[' * 200000 + b']' * 200000 + b'}')
    for key, meta in {
        'code': f'open({str(marker)!r}, "w")',
        'deep': '[' * 100000 + ']' * 100000,
        'large': '"' + 'a' * (20 * 2**20) + '"',
        'other': '{"type": "X"}',
        'large_number': '1' * 5000000,
    }.items():
        header = {'__metadata__': {'mmsparx.meta': meta}, 'w': entry}
        yield f'meta_{key}.safetensors', safetensors(json.dumps(header).encode())
    # Files that are not weights.
    yield 'empty.pth', b''
    yield 'zeros.pth', bytes(100000)
    yield 'text.pth', b'Hello.\n' * 100
    yield 'page.pth', b'<!DOCTYPE html>\n<html><body>404</body></html>'
    yield 'lfs.pth', b'version https://git-lfs.github.com/spec/v1\noid sha256:00\n'
    yield 'gzip.pth', b'\x1f\x8b' + zlib.compress(b'x')
    yield 'tar.pth', b'x'.ljust(257, b'\0') + b'ustar' + bytes(300)
    yield 'noise.pth', bytes((i * 37 + 11) % 256 for i in range(5000))


def write_all(folder: Path) -> list[Path]:
    """Write all files and return their paths. Code that a file runs writes the file `executed` to the folder."""
    marker = folder / 'executed'
    files = dict(_formats(marker))
    for key, pickled in (*_calls(marker), *_stand_ins(marker), *_containers(marker)):
        # The weights beside them are whole, which must not satisfy a reader.
        files[f'{key}.pth'] = zipped(checkpoint(x=pickled))
    for key, pickled in _calls(marker):
        files[f'{key}_in_the_weights.pth'] = zipped(checkpoint(state_dict=dict_(weight=pickled)))
        unknown = name('argparse', 'Namespace') + EMPTY_TUPLE + b'\x81' + dict_(x=pickled) + b'b'
        files[f'{key}_in_an_object.pth'] = zipped(checkpoint(args=unknown))
    files |= {f'{key}.pth': zipped(pickled) for key, pickled in _holders(marker)}
    folder.mkdir(parents=True, exist_ok=True)
    for key, content in files.items():
        (folder / key).write_bytes(content)
    others = {'folder.pth': os.mkdir, 'pipe.pth': os.mkfifo}
    for key, make in others.items():
        make(folder / key)
    links = {'dangling': 'nonesuch', 'to_itself': 'to_itself.pth', 'there': 'back.pth', 'back': 'there.pth'}
    links['device'] = '/dev/zero'
    for key, target in links.items():
        (folder / f'{key}.pth').symlink_to(target)
    return [folder / key for key in (*files, *others, *(f'{key}.pth' for key in links))]
