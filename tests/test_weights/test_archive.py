"""Damage: no changed byte of a file ends the process, hangs, or changes loaded values if there are checksums."""

import random
import signal
import zipfile

import pytest
import safetensors.torch
import torch

from mmsparx.weights import UnreadableError, read_checkpoint

CONTENT = {
    'state_dict': {'a': torch.arange(6.0).view(2, 3), 'b': torch.ones(3, dtype=torch.bfloat16)},
    'meta': {'epoch': 3, 'classes': ('x', 'y')},
}


def write(path, format_):
    if format_ == 'safetensors':
        safetensors.torch.save_file(CONTENT['state_dict'], path, {'format': 'pt'})
    else:
        torch.save(CONTENT, path, _use_new_zipfile_serialization=format_ == 'zip')
    return path


def assert_same(found):
    weights = found.get('state_dict', found)
    assert weights.keys() == CONTENT['state_dict'].keys()
    for name, x in CONTENT['state_dict'].items():
        assert weights[name].dtype == x.dtype
        assert torch.equal(weights[name], x)
    if 'state_dict' in found:
        assert found['meta'] == CONTENT['meta']


def mutations(whole: bytes, count: int, seed: int):
    """Flipped bits, set bytes, parts that are removed, doubled, exchanged or filled with zeros, and truncated files."""
    draw = random.Random(seed)
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 1, 1, 2, 8])):
            place, length = draw.randrange(len(data)), draw.choice([1, 2, 4, 8, 30])
            kind = draw.randrange(7)
            if kind == 0:
                data[place] ^= 1 << draw.randrange(8)
            elif kind == 1:
                data[place] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
            elif kind == 2:
                del data[place : place + length]
            elif kind == 3:
                data[place:place] = data[place : place + length]
            elif kind == 4:
                data[place : place + length] = bytes(length)
            elif kind == 5:
                other = draw.randrange(len(data))
                data[place : place + length] = data[other : other + length]
            else:
                del data[draw.randrange(len(data)) :]
            if not data:
                break
        yield bytes(data)


@pytest.fixture
def _no_hang():
    """Fail a test whose calls take ten seconds."""

    def ring(*_):
        pytest.fail('a file is read for ten seconds')

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures('_no_hang')
@pytest.mark.parametrize('format_', ['zip', 'stream', 'safetensors'])
def test_2000_mutations(format_, tmp_path):
    path = write(tmp_path / 'x.pth', format_)
    whole = path.read_bytes()
    assert_same(read_checkpoint(path))
    messages = []
    for data in mutations(whole, 2000, seed=len(format_)):
        path.write_bytes(data)
        signal.alarm(10)
        try:
            found = read_checkpoint(path)
        except UnreadableError as error:
            messages.append(str(error))
        else:
            if format_ == 'zip':  # the other formats have no checksums
                assert_same(found)
        signal.alarm(0)
    assert len(messages) > 500
    assert all(str(path) in message and len(message) < 2000 for message in messages)


@pytest.mark.parametrize('bit', range(8))
def test_no_flipped_bit_of_the_zip_format_changes_what_is_loaded(bit, tmp_path):
    """The test covers every byte of the file."""
    path = write(tmp_path / 'x.pth', 'zip')
    whole = path.read_bytes()
    for place in range(bit, len(whole), 8):
        data = bytearray(whole)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        try:
            found = read_checkpoint(path)
        except UnreadableError:
            continue
        assert_same(found)


def test_a_flipped_bit_of_a_weight_is_named(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save({'w': torch.randn(1000)}, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)  # torch does not notice
    with pytest.raises(UnreadableError, match=r"x\.pth is damaged: the record 'x/data/0' is not what was written"):
        read_checkpoint(path)
    with pytest.raises(UnreadableError, match='is not what was written'):
        read_checkpoint(path, tensors=False)


@pytest.mark.parametrize('kept', [0.999, 0.5, 0.01])
def test_a_file_that_is_cut_off(kept, tmp_path):
    path = write(tmp_path / 'x.pth', 'zip')
    count = int(path.stat().st_size * kept)
    path.write_bytes(path.read_bytes()[:count])
    with pytest.raises(UnreadableError, match=f'is damaged: cut off after {count} bytes'):
        read_checkpoint(path)


def test_a_file_without_checksums_counts_as_damaged(tmp_path):
    before = torch.serialization.get_crc32_options() if hasattr(torch.serialization, 'get_crc32_options') else None
    if before is None:
        pytest.skip('this torch always writes checksums')
    torch.serialization.set_crc32_options(False)
    try:
        path = write(tmp_path / 'x.pth', 'zip')
    finally:
        torch.serialization.set_crc32_options(before)
    with pytest.raises(UnreadableError, match='is not what was written'):
        read_checkpoint(path)


def test_a_record_that_torch_takes_for_a_folder(tmp_path):
    """With this bit of the directory set, torch leaves the tensor uninitialised."""
    path = tmp_path / 'x.pth'
    torch.save({'w': torch.ones(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        start = archive.start_dir
    data = bytearray(path.read_bytes())
    entry = data.index(b'x/data/0', start) - 46
    data[entry + 38] |= 0x10
    path.write_bytes(data)
    with pytest.raises(UnreadableError, match="the record 'x/data/0' is encrypted, a link or a folder"):
        read_checkpoint(path)
