"""Conversion of weights to other names and formats and back, bit for bit; contents of published files."""

import hashlib
import math
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import oracle_shapes
from helpers.weights import assert_same_bits, build_classifier, published_classifier, published_detector
from mmengine.logging import HistoryBuffer

from mmsparx.models import load_pretrained
from mmsparx.weights.contents import read_weights
from mmsparx.weights.convert import convert, publish
from mmsparx.weights.names import convert_names

CLASSES = {'dataset_meta': {'classes': ('cat', 'dog'), 'palette': [(1, 2, 3), (4, 5, 6)]}}


def noise(shapes):
    """Weights of these names, cut to 3 on a side, with any bits: NaNs, infinities, denormals."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in shapes.items():
        dtype = torch.int64 if name.endswith('num_batches_tracked') else torch.float32
        shape = [min(side, 3) for side in shape]
        bits = bytearray(rng.bytes(math.prod(shape) * dtype.itemsize))
        weights[name] = torch.frombuffer(bits, dtype=dtype).view(shape)
    return weights


def training_checkpoint(average=None):
    """A detector's file by mmengine's Runner, with machine paths and history, and with or without an averaged copy."""
    raw = published_detector()
    checkpoint = {
        'meta': {'epoch': 12, 'seed': 3, 'cfg': 'work_dir = "/secret/work"', **CLASSES},
        'state_dict': raw,
        'message_hub': {
            'log_scalars': {'train/loss': HistoryBuffer([1.5], [1])},
            'runtime_info': {'cfg': 'data_root = "/secret/data"'},
        },
        'optimizer': {'state': {0: {'exp_avg': torch.full((1000,), 0.125)}}, 'param_groups': []},
        'param_schedulers': [],
    }
    if average is not None:
        checkpoint['state_dict'] = average
        checkpoint['ema_state_dict'] = {f'module.{k}': x for k, x in raw.items()} | {'steps': torch.tensor(2)}
    return checkpoint


@pytest.fixture
def source(tmp_path):
    def source(content, name='source.pth'):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return source


class TestRoundTrip:
    @pytest.mark.parametrize('name', ['t', 's', 'b'])
    def test_the_published_classifiers(self, name, source, tmp_path):
        published = noise(oracle_shapes(name))
        path, ours, back = source(published), tmp_path / 'ours.pth', tmp_path / 'back.pth'
        convert(path, ours, to='ours')
        state = torch.load(ours, weights_only=True)
        assert list(state) == list(convert_names(published, 'ours').values())
        convert(ours, back, to='published')
        state = torch.load(back, weights_only=True)
        assert list(state) == list(published)
        assert_same_bits(state, published)

    @pytest.mark.parametrize('first', ['.pth', '.safetensors'])
    @pytest.mark.parametrize('second', ['.pth', '.safetensors'])
    def test_a_detector_through_every_format(self, first, second, source, tmp_path):
        published = {**published_detector(), 'roi_head.mask.bias': torch.tensor([float('nan'), -0.0])}
        path = source({'state_dict': published, 'meta': {'epoch': 12, **CLASSES}})
        steps = [tmp_path / f'{i}{suffix}' for i, suffix in enumerate((first, second, '.pth'))]
        convert(path, steps[0], to='ours')
        assert {name.partition('.')[0] for name in read_weights(steps[0]).state_dict} == {
            'backbone',
            'neck',
            'roi_head',
        }
        convert(steps[0], steps[1])
        convert(steps[1], steps[2], to='published')
        back = torch.load(steps[2], weights_only=True)
        assert list(back['state_dict']) == list(published)
        assert_same_bits(back['state_dict'], published)
        assert back['meta'] == {'epoch': 12, **CLASSES}

    def test_a_flat_file_stays_flat_in_safetensors(self, source, tmp_path):
        published = published_classifier()
        convert(source(published), tmp_path / 'x.safetensors')
        convert(tmp_path / 'x.safetensors', tmp_path / 'x.pth')
        state = torch.load(tmp_path / 'x.pth', weights_only=True)
        assert list(state) == list(published)
        assert_same_bits(state, published)


class TestConvert:
    def test_of_a_training_checkpoint_weights_and_meta_are_kept(self, source, tmp_path):
        average = {name: x + 1 for name, x in published_detector().items()}
        path, target = source(training_checkpoint(average)), tmp_path / 'x.pth'
        written = convert(path, target)
        kept = torch.load(target, weights_only=True)
        assert kept.keys() == {'meta', 'state_dict'}
        assert kept['meta'] == {'epoch': 12, 'seed': 3, **CLASSES}
        assert_same_bits(kept['state_dict'], average)
        left_out = {'ema_state_dict', 'message_hub', 'optimizer', 'param_schedulers', 'meta.cfg'}
        assert set(written.left_out) == left_out
        convert(path, target, weights='raw', force=True)
        assert_same_bits(torch.load(target, weights_only=True)['state_dict'], published_detector())

    def test_meta_that_safetensors_cannot_keep_is_named(self, source, tmp_path):
        path = source({'state_dict': published_detector(), 'meta': {'epoch': 3, 'best': b'x'}})
        assert convert(path, tmp_path / 'x.safetensors').left_out == ('meta.best',)
        assert read_weights(tmp_path / 'x.safetensors').meta == {'epoch': 3}

    def test_names_without_a_counterpart(self, source, tmp_path):
        path = source(published_classifier() | {'layers.0.blocks.0.op.extra': torch.zeros(1)})
        with pytest.raises(ValueError, match=r'1 names have no counterpart .*: layers\.0\.blocks\.0\.op\.extra'):
            convert(path, tmp_path / 'x.pth', to='ours')
        assert not (tmp_path / 'x.pth').exists()


class TestPublish:
    def test_a_training_checkpoint(self, source):
        path = source(training_checkpoint(), 'epoch_12.pth')
        published, digest = publish(path)
        contents = published.read_bytes()
        assert published == path.with_name(f'epoch_12-{digest[:8]}.pth')
        assert hashlib.sha256(contents).hexdigest() == digest
        kept = torch.load(published, weights_only=True)
        assert kept.keys() == {'meta', 'state_dict'}
        assert kept['meta'] == CLASSES
        assert_same_bits(kept['state_dict'], published_detector())
        for secret in (b'secret', b'optimizer', b'loss', b'epoch_12', b'epoch', b'seed', str(path.parent).encode()):
            assert secret not in contents, secret
        # The published file has the usual permissions, and no temporary file remains.
        assert stat.S_IMODE(published.stat().st_mode) == 0o666 & ~_umask()
        assert sorted(path.parent.iterdir()) == sorted([path, published])

    def test_it_loads_and_damage_is_noticed(self, source):
        published, _ = publish(source(published_classifier()))
        assert load_pretrained(build_classifier(), published).share == 1
        contents = bytearray(published.read_bytes())
        contents[len(contents) // 2] ^= 1
        published.write_bytes(contents)
        with pytest.raises(RuntimeError, match='is damaged'):
            load_pretrained(build_classifier(), published)

    def test_the_same_weights_give_the_same_file(self, source):
        one, other = source(published_classifier(), 'one.pth'), source(published_classifier(), 'other.pth')
        first, digest = publish(one)
        assert publish(other)[1] == digest
        with pytest.raises(ValueError, match='is the source'):  # the same name would result again
            publish(first)

    def test_names(self, source, tmp_path):
        path = source(published_classifier())
        for target, pattern in (
            (tmp_path / 'tiny.pth', 'tiny-{}.pth'),
            (tmp_path / 'new/tiny-20240131.pth', 'tiny-20240131-{}.pth'),
            (tmp_path / 'tiny-0123abcd.safetensors', 'tiny-{}.safetensors'),  # digits of an earlier file
        ):
            published, digest = publish(path, target)
            count = max(8, re.search('[a-f]', digest).end())  # the digits include a letter
            assert published == target.with_name(pattern.format(digest[:count]))
            assert read_weights(published).meta is None

    def test_in_the_home_folder(self, source, monkeypatch):
        path = source(published_classifier())
        monkeypatch.setenv('HOME', str(path.parent))
        published, _ = publish(f'~/{path.name}', '~/new.pth')
        assert published.parent == path.parent
        assert published.name.startswith('new-')

    def test_digits_that_could_be_a_date(self, source, monkeypatch):
        class Sha256:
            def hexdigest(self):
                return '20240131' + '77' + 'c' + 53 * '0'

        path = source(published_classifier())
        monkeypatch.setattr(hashlib, 'sha256', lambda contents: Sha256())
        assert publish(path)[0].name == 'source-2024013177c.pth'

    def test_the_copy(self, source):
        average = {name: x + 1 for name, x in published_detector().items()}
        path = source(training_checkpoint(average))
        for weights, expected in (('auto', average), ('raw', published_detector())):
            assert_same_bits(read_weights(publish(path, weights=weights)[0]).state_dict, expected)


class TestRefused:
    @pytest.fixture(params=[convert, publish], ids=['convert', 'publish'])
    def tool(self, request):
        return request.param

    def test_no_sparx(self, tool, source, tmp_path):
        path = source({'layer1.0.conv1.weight': torch.zeros(1)})
        with pytest.raises(ValueError, match=r'source\.pth holds no SparX backbone; its names begin with: layer1\.0'):
            tool(path, tmp_path / 'x.pth')
        assert os.listdir(tmp_path) == ['source.pth']

    def test_a_target_that_is_there(self, tool, source, tmp_path):
        path, target = source(published_classifier()), tmp_path / 'x.pth'
        tool(path, target)
        (written,) = tmp_path.glob('x*')
        written.write_text('precious')
        with pytest.raises(FileExistsError, match='exists already'):
            tool(path, target)
        assert written.read_text() == 'precious'
        tool(path, target, force=True)
        assert read_weights(written)

    def test_the_source_as_target(self, source):
        path = source(published_classifier())
        link = path.with_name('link.pth')
        link.symlink_to(path)
        for target in (path, link, Path(os.path.relpath(path))):
            with pytest.raises(ValueError, match='is the source'):
                convert(path, target, to='ours', force=True)

    def test_another_suffix(self, tool, source, tmp_path):
        for name, got in (('x.onnx', "'.onnx'"), ('x', "'none'")):
            with pytest.raises(ValueError, match=rf'ends in \.pth, \.pt, \.safetensors, got {got}'):
                tool(source(published_classifier()), tmp_path / name)

    def test_no_copy(self, tool, source, tmp_path):
        with pytest.raises(ValueError, match='holds no averaged copy'):
            tool(source(published_classifier()), tmp_path / 'x.pth', weights='ema')


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
