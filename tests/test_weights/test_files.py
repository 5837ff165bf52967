"""Files of weights: formats that can be read, and refusals."""

import hashlib
import io
import os
import sys
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.weights import assert_loaded, assert_same_bits, assert_unchanged, build, published_classifier, state_of
from torch import nn

from mmsparx.models import load_pretrained
from mmsparx.weights.contents import Weights, encode_weights, read_weights


def state_of_file(source, weights='auto'):
    return read_weights(source, weights).state_dict


class TestUnreadable:
    @pytest.fixture
    def refused(self):
        """Asserts that both loader and network refuse a source; returns the message."""

        def refused(source):
            with pytest.raises(RuntimeError) as error:
                state_of_file(source)
            model = build(init_cfg=dict(type='Pretrained', checkpoint=source))
            before = state_of(model)
            with pytest.raises(RuntimeError):
                model.init_weights()
            assert_unchanged(model, before)
            assert not model.is_init
            assert source in str(error.value)
            return str(error.value)

        return refused

    def test_missing_file(self, refused, tmp_path):
        message = refused(str(tmp_path / 'nonesuch.pth'))
        assert 'are not available' in message
        assert 'Training from scratch must be chosen: init_cfg=None on the backbone, pretrained=False' in message

    def test_unreachable_address(self, refused, tmp_path, monkeypatch):
        monkeypatch.setenv('TORCH_HOME', str(tmp_path))
        monkeypatch.setenv('no_proxy', '*')
        message = refused('http://127.0.0.1:1/x.pth')
        assert 'are not available' in message
        assert 'Training from scratch must be chosen: init_cfg=None on the backbone, pretrained=False' in message

    @pytest.mark.parametrize('keep', [0.0, 0.1, 0.5, 0.99])
    def test_truncated_file(self, keep, refused, save, tmp_path):
        path = tmp_path / 'weights.pth'
        save(published_classifier())
        content = path.read_bytes()
        kept = int(keep * len(content))
        path.write_bytes(content[:kept])
        assert (f'damaged: cut off after {kept} bytes' if kept else 'it is empty') in refused(str(path))

    @pytest.mark.parametrize(
        ('content', 'said'),
        [
            (b'<!DOCTYPE html><title>404</title>', 'it is a web page (HTML)'),
            (b'\n <HTML lang="en">', 'it is a web page (HTML)'),
            (b'version https://git-lfs.github.com/spec/v1', 'it is a pointer of Git LFS, and not the file itself'),
            (b'\x80\x02}.', 'it is a pickle that torch.save has not written'),
            (bytes(300), 'it begins with 300 zeros'),
            (b'epoch: 3\n', "it is a text file that begins with 'epoch: 3'"),
            ('Grüße'.encode(), "it is a text file that begins with 'Grüße'"),
            (b'\x1f\x8b\x08\x00', 'it is a gzip archive'),
            (b'\x89PNG\r\n\x1a\n', 'it is a PNG image'),
            (b'\x93NUMPY\x01\x00', 'it is a numpy array'),
            (b'x'.ljust(257, b'\0') + b'ustar\x00', 'it is a tar archive'),
            (b'\xff\xfe\x00\x01', 'no known format begins with'),
            (b'', 'it is empty'),
        ],
        ids=lambda x: str(x)[:20],
    )
    def test_something_else(self, content, said, refused, tmp_path):
        (tmp_path / 'weights.pth').write_bytes(content)
        assert said in refused(str(tmp_path / 'weights.pth'))

    @pytest.mark.parametrize(
        ('make', 'said'),
        [
            (lambda path: path.mkdir(), 'is a folder, and a file of weights is expected'),
            (os.mkfifo, 'is a named pipe (FIFO)'),
            (lambda path: path.symlink_to('/dev/zero'), 'is a device'),
            (lambda path: path.symlink_to('nonesuch'), 'is a symbolic link to nonesuch, which does not exist'),
            (lambda path: path.symlink_to(path.name), 'is a symbolic link that leads back to itself'),
            (lambda path: path.symlink_to(path.parent), 'is a folder'),
        ],
        ids=['folder', 'pipe', 'device', 'dangling link', 'circular link', 'link to a folder'],
    )
    def test_no_regular_file(self, make, said, refused, tmp_path):
        make(tmp_path / 'weights.pth')
        assert said in refused(str(tmp_path / 'weights.pth'))

    def test_a_zip_archive_of_another_program(self, refused, tmp_path):
        path = tmp_path / 'weights.pth'
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('a/notes.txt', 'x')
        assert "it is a zip archive that torch.save has not written: it holds 'a/notes.txt'" in refused(str(path))

    def test_torchscript(self, refused, tmp_path):
        path = tmp_path / 'weights.pth'
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('a/constants.pkl', 'x')
        assert 'it is a TorchScript model, and weights are expected' in refused(str(path))

    def test_no_message_advises_to_load_unsafely(self, save):
        with pytest.raises(RuntimeError) as error:
            state_of_file(save({'state_dict': {}, 'x': Fraction(1, 3)}))
        assert 'weights_only' not in str(error.value)

    @pytest.mark.parametrize(
        ('content', 'got'),
        [
            ({'epoch': 3, 'loss': 0.1}, 'got dict with the keys epoch, loss'),
            ({'state_dict': {'stem.0.weight': [1.0]}}, 'got dict with the keys state_dict'),
            ({0: torch.zeros(1)}, 'got dict with the keys 0'),
        ],
        ids=['no weights', 'numbers', 'numbered'],
    )
    def test_no_state_dict(self, content, got, save):
        path = save(content)
        with pytest.raises(RuntimeError, match=f'expected a state dict, flat or under the key "state_dict", {got}'):
            state_of_file(path)

    @pytest.mark.parametrize('content', [[1, 2], torch.zeros(2), 3])
    def test_no_dict(self, content, save):
        with pytest.raises(RuntimeError, match=r'expected a dict of weights, got a (list|Tensor|int)'):
            state_of_file(save(content))


class TestCopies:
    """Copies of a training checkpoint: the averaged one (EMA) is loaded."""

    RAW, AVERAGE = {'weight': torch.tensor([1.0])}, {'weight': torch.tensor([2.0])}

    def files(self):
        """Files of mmengine's EMAHook, which swaps the two copies, and of training scripts like timm's."""
        raw = {'module.weight': self.RAW['weight'], 'steps': torch.tensor(3)}
        yield {'state_dict': self.AVERAGE, 'ema_state_dict': raw, 'meta': {'epoch': 1}, 'optimizer': {'state': {}}}
        yield {'state_dict': self.RAW, 'state_dict_ema': self.AVERAGE, 'epoch': 1}
        yield {'model': self.RAW, 'model_ema': {'module.weight': self.AVERAGE['weight']}, 'args': None}

    @pytest.mark.parametrize(('weights', 'value'), [('auto', 2.0), ('ema', 2.0), ('raw', 1.0)])
    def test_is_chosen(self, weights, value, save):
        for content in self.files():
            assert state_of_file(save(content), weights) == {'weight': torch.tensor([value])}

    def test_none_is_there(self, save):
        for content in (self.RAW, {'state_dict': self.RAW, 'meta': {}}):
            path = save(content)
            assert state_of_file(path, 'raw') == state_of_file(path) == self.RAW
            with pytest.raises(ValueError, match=r'weights\.pth holds no averaged copy \(EMA\)'):
                state_of_file(path, 'ema')

    def test_unknown(self, save):
        with pytest.raises(ValueError, match="weights: expected one of auto, ema, raw, got 'best'"):
            state_of_file(save(self.RAW), 'best')

    def test_omissions_are_named(self, save):
        runner, timm, _ = self.files()
        assert read_weights(save(runner)) == Weights(self.AVERAGE, {'epoch': 1}, ('ema_state_dict', 'optimizer'))
        assert read_weights(save(timm)) == Weights(self.AVERAGE, {}, ('state_dict', 'epoch'))
        assert read_weights(save(self.RAW)) == Weights(self.RAW, None, ())

    def test_load_pretrained(self, save):
        raw, average = published_classifier(0), published_classifier(1)
        model = build()
        path = save({'model': raw, 'model_ema': average})
        load_pretrained(model, path, weights='raw')
        assert_loaded(model, raw)
        load_pretrained(model, path)
        assert_loaded(model, average)


class TestNamedHash:
    CONTENT = {'weight': torch.ones(2)}

    def name(self, save, digits=8, suffix='.pth'):
        path = Path(save(self.CONTENT))
        return path.rename(path.with_name(f'x-{hashlib.sha256(path.read_bytes()).hexdigest()[:digits]}{suffix}'))

    @pytest.mark.parametrize('digits', [8, 12, 64])
    def test_is_checked(self, digits, save):
        path = self.name(save, digits)
        assert state_of_file(path)['weight'].sum() == 2
        torch.save({'weight': torch.zeros(2)}, path)  # another file, which is whole
        with pytest.raises(RuntimeError, match=rf'{path.name} is damaged, or was renamed: the SHA-256 .* begins with'):
            state_of_file(path)

    @pytest.mark.parametrize(
        'name', ['x-20240131.pth', 'iter-00160000.pth', 'x-abcdefg1.pth', 'x-abc.pth', 'x_deadbeef.pth', 'deadbeef.pth']
    )
    def test_other_names_promise_nothing(self, name, save):
        assert state_of_file(save(self.CONTENT, name))


class TestSafetensors:
    CONTENT = {
        'z': torch.tensor([1.0, float('nan')]),
        'a.long': torch.tensor(7),
        'b.half': torch.ones(2, 3, dtype=torch.bfloat16).t(),
    }

    def write(self, path, meta=None):
        path.write_bytes(encode_weights(Weights(self.CONTENT, meta), '.safetensors'))
        return path

    @pytest.mark.parametrize('meta', [None, {}, {'dataset_meta': {'classes': ('a', "b's"), 'label_map': {0: 1}}}])
    def test_there_and_back(self, meta, tmp_path):
        read = read_weights(self.write(tmp_path / 'x.safetensors', meta))
        assert list(read.state_dict) == list(self.CONTENT)  # in the same order
        assert_same_bits(read.state_dict, self.CONTENT)
        assert (read.meta, read.left_out) == (meta, ())

    def test_other_packages_read_and_write_it(self, tmp_path):
        path = self.write(tmp_path / 'x.safetensors')
        assert_same_bits(safetensors.torch.load_file(path), self.CONTENT)
        safetensors.torch.save_file({'weight': torch.ones(2)}, path)
        assert state_of_file(path)['weight'].sum() == 2

    def test_into_a_backbone(self, tmp_path):
        published = published_classifier()
        path = tmp_path / 'x.safetensors'
        path.write_bytes(encode_weights(Weights(published), '.safetensors'))
        model = build(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
        model.init_weights()
        assert_loaded(model, published)

    def test_damaged(self, tmp_path):
        path = self.write(tmp_path / 'x.safetensors')
        whole = path.read_bytes()
        for contents in (whole[:20], whole[:-1]):
            path.write_bytes(contents)
            with pytest.raises(RuntimeError, match=r'x\.safetensors is damaged: .*header'):
                state_of_file(path)

    @pytest.mark.parametrize(
        'meta',
        [
            'open("x", "w")',
            '{"type": []}',
            '{"dict": 3}',
            '{"dict": [[[], 1]]}',
            '[' * 100000,
            '{"tuple": 1, "dict": []}',
        ],
        ids=lambda x: x[:12],
    )
    def test_metadata_that_mmsparx_has_not_written(self, meta, tmp_path):
        path = tmp_path / 'x.safetensors'
        safetensors.torch.save_file({'weight': torch.ones(2)}, path, {'mmsparx.meta': meta})
        with pytest.raises(
            RuntimeError, match=r'metadata mmsparx\.meta is not as mmsparx writes it|nested more deeply'
        ):
            state_of_file(path)

    @pytest.mark.parametrize('names', ['[1]', '[[1]]', '"1"', '["1", "2"]', 'null'])
    def test_names_that_are_not_those_of_the_tensors(self, names, tmp_path):
        """Only the order is lost."""
        safetensors.torch.save_file({'1': torch.ones(2)}, tmp_path / 'x.safetensors', {'mmsparx.names': names})
        assert state_of_file(tmp_path / 'x.safetensors')['1'].sum() == 2

    def test_metadata_is_bounded(self, tmp_path):
        path = tmp_path / 'x.safetensors'
        safetensors.torch.save_file({'weight': torch.ones(2)}, path, {'mmsparx.meta': ' ' * (16 * 2**20 + 1)})
        with pytest.raises(RuntimeError, match='has 16777217 characters, more than any checkpoint has'):
            state_of_file(path)

    def test_under_another_suffix(self, tmp_path):
        path = self.write(tmp_path / 'x.safetensors')
        assert_same_bits(read_weights(path.rename(tmp_path / 'x.bin')).state_dict, self.CONTENT)

    def test_not_there(self, tmp_path):
        with pytest.raises(RuntimeError, match='are not available'):
            state_of_file(tmp_path / 'x.safetensors')

    def test_without_the_package(self, tmp_path, monkeypatch):
        path = self.write(tmp_path / 'x.safetensors')
        monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
        for use in (lambda: state_of_file(path), lambda: self.write(path)):
            with pytest.raises(ModuleNotFoundError, match='pip install safetensors'):
                use()

    def test_meta_that_it_cannot_keep(self):
        with pytest.raises(ValueError, match='expected numbers, strings, and lists and dicts of them, got ndarray'):
            encode_weights(Weights({}, {'palette': np.zeros(3)}), '.safetensors')


def test_a_view_is_written_without_its_base():
    whole = torch.arange(100_000.0)
    views = {
        'slice': whole[10:13],
        'expanded': torch.ones(()).expand(300, 300)[0],
        'parameter': nn.Parameter(whole[:2]),
    }
    contents = encode_weights(Weights(views), '.pth')
    assert len(contents) < 5000
    read = torch.load(io.BytesIO(contents), weights_only=True)
    assert_same_bits(read, {name: x.detach() for name, x in views.items()})
