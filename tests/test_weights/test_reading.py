"""Contents of a checkpoint are read as written, or refused by name; torch's own list of classes is not extended."""

import argparse
import io
import pickle
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from torch import nn

from mmsparx.weights import UnreadableError, read_checkpoint
from mmsparx.weights.reading import check_values
from mmsparx.weights.records import RefusedError

FORMATS = {'zip': True, 'stream': False}
# Values that torch and mmengine write, and the values that are read.
VALUES = {
    'number': (7, 7),
    'large number': (2**200, 2**200),
    'negative number': (-(2**40), -(2**40)),
    'float': (0.1, 0.1),
    'boolean': (True, True),
    'none': (None, None),
    'string': ('ü\u4e00', 'ü\u4e00'),
    'bytes': (b'\x00\xff', b'\x00\xff'),
    'complex': (1 + 2j, 1 + 2j),
    'list': ([1, [2, ()]], [1, [2, ()]]),
    'tuple': ((1, 2, 3, 4), (1, 2, 3, 4)),
    'dict': ({'a': {1: 'x', None: 2, False: 3}}, {'a': {1: 'x', None: 2, False: 3}}),
    'set': ({1, 'a'}, {1, 'a'}),
    'frozenset': (frozenset([1]), frozenset([1])),
    'ordered dict': (OrderedDict(b=1, a=2), OrderedDict(b=1, a=2)),
    'counter': (Counter({8: 1, 11: 1}), Counter({8: 1, 11: 1})),
    'numpy float': (np.float64(0.125), 0.125),
    'numpy integer': (np.int64(7), 7),
    'numpy boolean': (np.bool_(True), True),
    'numpy half': (np.float16(0.5), 0.5),
    'array': (np.arange(6, dtype=np.float32).reshape(2, 3), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]),
    'array in columns': (np.asfortranarray(np.arange(6).reshape(2, 3)), [[0, 1, 2], [3, 4, 5]]),
    'array of another byte order': (np.arange(3, dtype='>i4'), [0, 1, 2]),
    'array of no dimension': (np.array(2.5), 2.5),
    'empty array': (np.zeros((0, 4)), []),
    'numpy string': (np.str_('aü'), 'aü'),
    'array of strings': (np.array(['a', 'bc']), ['a', 'bc']),
    'config': (ConfigDict(a=ConfigDict(b=[1])), {'a': {'b': [1]}}),
    'default dict': (defaultdict(list, {1: [2]}), {1: [2]}),
    'key from another system': ({'car\r_precision': 1}, {'car\r_precision': 1}),
    'device': (torch.device('cuda', 1), 'cuda:1'),
    'size': (torch.Size([2, 3]), (2, 3)),
}
TENSORS = {
    **{str(dtype): torch.arange(6).to(dtype).view(2, 3) for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.uint16,
    )},
    'scalar': torch.tensor(3.5),
    'empty': torch.zeros(0, 3),
    'transposed': torch.arange(6.0).view(2, 3).T,
    'part': torch.arange(10.0)[3:7],
    'strided': torch.arange(10.0)[::3],
    'parameter': nn.Parameter(torch.ones(2)),
}  # fmt: skip


def write(content, path, **options) -> str:
    torch.save(content, path, **options)
    return str(path)


def assert_same_tensor(found, expected):
    assert type(found) is torch.Tensor
    assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
    assert torch.equal(found, expected.detach())


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('name', VALUES)
def test_values(name, protocol, tmp_path):
    content, expected = VALUES[name]
    if protocol == 5 and isinstance(content, (np.ndarray, np.generic)):
        pytest.skip('numpy writes other calls in protocol 5, which torch.save takes if asked for')
    found = read_checkpoint(write({'x': content}, tmp_path / 'x.pth', pickle_protocol=protocol))['x']
    assert type(found) is type(expected)
    assert found == expected


@pytest.mark.parametrize('format_', FORMATS)
@pytest.mark.parametrize('name', TENSORS)
def test_tensors(name, format_, tmp_path):
    path = write({'x': TENSORS[name]}, tmp_path / 'x.pth', _use_new_zipfile_serialization=FORMATS[format_])
    assert_same_tensor(read_checkpoint(path)['x'], TENSORS[name])


@pytest.mark.parametrize('format_', FORMATS)
def test_tensors_that_share_memory_still_do(format_, tmp_path):
    whole = torch.arange(10.0)
    content = {'whole': whole, 'part': whole[2:5], 'again': whole}
    path = write(content, tmp_path / 'x.pth', _use_new_zipfile_serialization=FORMATS[format_])
    found = read_checkpoint(path)
    found['whole'][3] = 70
    assert found['part'].tolist() == [2, 70, 4]
    assert found['again'][3] == 70


@pytest.mark.parametrize('format_', FORMATS)
def test_a_state_dict_keeps_its_metadata(format_, tmp_path):
    """A batch norm of torch uses it to see whether a file has counters."""
    state_dict = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).state_dict()
    path = write({'state_dict': state_dict}, tmp_path / 'x.pth', _use_new_zipfile_serialization=FORMATS[format_])
    found = read_checkpoint(path)['state_dict']
    assert type(found) is OrderedDict
    assert found._metadata == state_dict._metadata
    assert list(found) == list(state_dict)


def test_optimizers_and_schedulers(tmp_path):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    schedulers = [
        torch.optim.lr_scheduler.MultiStepLR(optimizer, [8, 11]),
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 100),
    ]
    content = {'optimizer': optimizer.state_dict(), 'param_schedulers': [x.state_dict() for x in schedulers]}
    found = read_checkpoint(write(content, tmp_path / 'x.pth'))
    other = torch.optim.AdamW([nn.Parameter(torch.ones(3))])
    other.load_state_dict(found['optimizer'])
    assert torch.equal(other.state[other.param_groups[0]['params'][0]]['exp_avg'], torch.full((3,), 0.1))
    assert found['param_schedulers'][0]['milestones'] == Counter({8: 1, 11: 1})
    again = torch.optim.lr_scheduler.OneCycleLR(other, 0.1, 100)
    again.load_state_dict(found['param_schedulers'][1])
    schedulers[1].step()
    again.step()
    assert again.get_last_lr() == schedulers[1].get_last_lr()


def test_mmengines_onecycle_schedule_resumes(tmp_path):
    """Its state has a function, which is left out and named."""
    from mmengine.optim import OneCycleLR

    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    schedulers = [OneCycleLR(optimizer, eta_max=0.1, total_steps=50) for _ in range(2)]
    for _ in range(5):
        schedulers[0].step()
    path = write({'param_schedulers': [schedulers[0].state_dict()]}, tmp_path / 'x.pth')
    schedulers[1].load_state_dict(read_checkpoint(path)['param_schedulers'][0])
    expected = [schedulers[0].step() or optimizer.param_groups[0]['lr'] for _ in range(5)]
    optimizer.param_groups[0]['lr'] = schedulers[1]._last_value[0]
    assert [schedulers[1].step() or optimizer.param_groups[0]['lr'] for _ in range(5)] == pytest.approx(expected)


def of_this_test(buffer):
    return 1


def test_histories(tmp_path):
    HistoryBuffer.register_statistics(of_this_test)
    try:
        history = HistoryBuffer([3.0, 1.0, 2.0], [1, 1, 2], max_length=50)
        path = write({'log_scalars': OrderedDict(loss=history, none=HistoryBuffer())}, tmp_path / 'x.pth')
    finally:
        del HistoryBuffer._statistics_methods['of_this_test']
    found = read_checkpoint(path)['log_scalars']
    assert type(found['loss']) is HistoryBuffer
    np.testing.assert_array_equal(found['loss'].data, history.data)
    assert (found['loss'].mean(), found['loss'].min(), found['loss'].current()) == (1.5, 1.0, 2.0)
    assert found['loss'].statistics('max') == 3.0
    assert found['loss'].max_length == 50
    found['loss'].update(5.0)
    assert found['loss'].current() == 5.0
    assert found['none'].data[0].shape == (0,)
    assert 'of_this_test' not in HistoryBuffer._statistics_methods
    # The contents can be written and read again.
    again = read_checkpoint(write(found, tmp_path / 'again.pth'))
    np.testing.assert_array_equal(again['loss'].data, found['loss'].data)


class TestLocation:
    @pytest.fixture
    def path(self, tmp_path):
        return write({'x': torch.arange(3.0)}, tmp_path / 'x.pth')

    @pytest.mark.parametrize('location', [None, 'cpu', torch.device('cpu'), {'cpu': 'cpu'}, lambda storage, _: storage])
    def test_the_cpu(self, path, location):
        assert_same_tensor(read_checkpoint(path, location)['x'], torch.arange(3.0))

    def test_elsewhere(self, path):
        assert read_checkpoint(path, 'meta')['x'].device.type == 'meta'

    def test_a_function_sees_where_it_was(self, path):
        seen = []
        read_checkpoint(path, lambda storage, location: seen.append((storage.nbytes(), location)))
        assert seen == [(12, 'cpu')]

    def test_tensors_can_be_left_where_they_are(self, path, monkeypatch):
        found = read_checkpoint(path, tensors=False)['x']
        assert (found.device.type, found.shape, found.dtype) == ('meta', (3,), torch.float32)


@dataclass
class Mine:
    x: int = 0


class TestNotUnderstood:
    def said(self, content, tmp_path, monkeypatch) -> tuple[object, str]:
        lines = []
        monkeypatch.setattr('mmsparx.weights.files.print_log', lambda text, **_: lines.append(text))
        return read_checkpoint(write(content, tmp_path / 'x.pth')), '\n'.join(lines)

    @pytest.mark.parametrize(
        ('content', 'left', 'said'),
        [
            ({'args': argparse.Namespace(lr=1)}, {}, 'args (argparse.Namespace)'),
            ({'args': argparse.Namespace(lr=Mine())}, {}, 'args (argparse.Namespace)'),
            ({'meta': {'a': {'b': Mine(3)}, 'c': 1}}, {'meta': {'a': {}, 'c': 1}}, f'meta.a.b ({__name__}.Mine)'),
            ({'meta': {'l': [1, Mine()], 'c': 1}}, {'meta': {'c': 1}}, f'meta.l ({__name__}.Mine)'),
            ({'meta': {'at': datetime.now(), 'c': 1}}, {'meta': {'c': 1}}, 'meta.at (datetime.datetime)'),
            ({'args': argparse.Namespace(out=Path('x'))}, {}, 'args (argparse.Namespace)'),
            ({'out': Path('x')}, {}, 'out (pathlib'),
            ({'loss': nn.functional.relu}, {}, 'loss (torch.nn.functional.relu)'),
            ({'kind': Mine}, {}, f'kind ({__name__}.Mine)'),
            ({'dtype': torch.float32}, {}, 'dtype (torch.float32)'),
        ],
        ids=[
            'namespace',
            'object in it',
            'deeper',
            'in a list',
            'date',
            'path in it',
            'path',
            'function',
            'class',
            'dtype',
        ],
    )
    def test_is_left_out_and_named(self, content, left, said, tmp_path, monkeypatch):
        weights = {'state_dict': {'w': torch.ones(1)}}
        found, line = self.said(weights | content, tmp_path, monkeypatch)
        assert found == weights | left
        assert line.startswith(f'{tmp_path}/x.pth: left out entries that are not weights and not understood: ')
        assert said in line
        assert '\n' not in line

    def test_many_are_counted(self, tmp_path, monkeypatch):
        _, line = self.said({str(i): Mine() for i in range(8)}, tmp_path, monkeypatch)
        assert line.endswith(' and 3 more')

    @pytest.mark.parametrize(
        'content',
        [
            {'state_dict': {'w': Mine()}},
            {'model': {'w': nn.functional.relu}},
            {'ema_state_dict': {'w': [Mine()]}},
            {'optimizer': {'state': {0: {'step': Mine()}}}},
        ],
    )
    def test_is_refused_among_the_weights(self, content, tmp_path):
        place = next(iter(content))
        said = rf'its entry {place}\.[\w.*]+ is an object of .*(Mine|relu)'
        with pytest.raises(UnreadableError, match=said) as error:
            read_checkpoint(write(content, tmp_path / 'x.pth'))
        assert 'save model.state_dict() alone' in str(error.value)

    @pytest.mark.parametrize('content', [Mine(), [Mine()], nn.Linear(1, 1)])
    def test_is_refused_alone(self, content, tmp_path):
        with pytest.raises(UnreadableError, match=r'it holds an object of|it asks to call'):
            read_checkpoint(write(content, tmp_path / 'x.pth'))

    @pytest.mark.parametrize(
        ('content', 'name'),
        [
            (Fraction(1, 3), r'fractions\.Fraction'),
            (np.random.default_rng(0), r'numpy\.random'),
            (torch.zeros(2).to_sparse(), r'torch\.serialization\._get_layout'),
            (torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8), r'torch\._utils\._rebuild_qtensor'),
        ],
    )
    def test_a_call_is_refused_by_name(self, content, name, tmp_path):
        with pytest.raises(UnreadableError, match=rf'x\.pth was not loaded: it asks to call {name}') as error:
            read_checkpoint(write({'state_dict': {}, 'x': content}, tmp_path / 'x.pth'))
        assert 'weights_only' not in str(error.value)


def test_a_file_of_timms_saver(tmp_path):
    """Its `args` is an argparse.Namespace; see test_timm_model for a detector that starts from it."""
    from timm.utils import CheckpointSaver

    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    args = argparse.Namespace(model='x', lr=0.1)
    folders = dict(checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path))
    CheckpointSaver(model, optimizer, args=args, **folders).save_checkpoint(1)
    found = read_checkpoint(tmp_path / 'last.pth.tar')
    assert found['epoch'] == 1
    assert torch.equal(found['state_dict']['weight'], model.weight)
    assert 'args' not in found


class TestValuesOfOthers:
    """Values that a loader registered by others returns."""

    def test_are_copied(self):
        content = {'a': [1, (torch.ones(1),)], 'b': OrderedDict(c=HistoryBuffer()), 'd': np.float32(2), 'e': np.ones(2)}
        found = check_values(content)
        assert found is not content
        assert found['a'] == content['a']
        assert (found['d'], found['e']) == (2.0, [1.0, 1.0])

    def test_an_attribute_is_no_method(self):
        content = OrderedDict(a=1)
        content.items = lambda: [('b', 2)]
        assert check_values(content) == {'a': 1}

    @pytest.mark.parametrize('content', [Mine(), {'a': Mine()}, [open], {(): 1}, np.array([None])])
    def test_are_refused(self, content):
        with pytest.raises(RefusedError):
            check_values(content)

    def test_must_end(self):
        endless, many = [], []
        endless.append(endless)
        for _ in range(40):
            many = [many, many]
        for content in (endless, many):
            with pytest.raises(RefusedError, match='more than any checkpoint'):
                check_values(content)


def test_torchs_own_loading_is_as_strict_as_ever(tmp_path):
    """The list of classes that weights-only loading takes is not extended, in this process or for others."""
    content = {'history': HistoryBuffer([1.0], [1])}
    path = write(content, tmp_path / 'x.pth')
    code = (
        'import sys, torch; before = set(map(str, torch.serialization.get_safe_globals()))\n'
        'import mmengine.runner, mmdet, mmseg, mmpretrain, timm\n'
        'import torch._dynamo, torch.distributed.tensor, torch.nested\n'
        'before |= set(map(str, torch.serialization.get_safe_globals()))\n'
        'import mmsparx.models, mmsparx.engine, mmsparx.datasets, mmsparx.timm\n'
        'from mmsparx.weights import read_checkpoint\n'
        'assert read_checkpoint(sys.argv[1])["history"].mean() == 1\n'
        'print(sorted(set(map(str, torch.serialization.get_safe_globals())) - before))\n'
        'torch.load(sys.argv[1], weights_only=True)\n'
    )
    pytest.importorskip('mmdet', reason='they are what is imported beside it')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, path], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == '[]'
    assert done.returncode == 1
    assert 'Unsupported global: GLOBAL mmengine.logging.history_buffer.HistoryBuffer' in done.stderr
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_it_reads_what_torch_reads(tmp_path):
    """A network and its optimizer are read in both formats, by torch and by us."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    model[2](model[1](model[0](torch.randn(2, 3, 9, 9))).mean((2, 3))).sum().backward()
    optimizer.step()
    content = {'state_dict': model.state_dict(), 'optimizer': optimizer.state_dict(), 'epoch': 3}
    for new in (True, False):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=new)
        (tmp_path / 'x.pth').write_bytes(buffer.getvalue())
        ours, theirs = read_checkpoint(tmp_path / 'x.pth'), torch.load(tmp_path / 'x.pth', weights_only=True)
        for name, x in theirs['state_dict'].items():
            assert_same_tensor(ours['state_dict'][name], x)
        for i, state in theirs['optimizer']['state'].items():
            for key, x in state.items():
                assert_same_tensor(ours['optimizer']['state'][i][key], x)
        assert ours['optimizer']['param_groups'] == theirs['optimizer']['param_groups']
        assert ours['epoch'] == 3
