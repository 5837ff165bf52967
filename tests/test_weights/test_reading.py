"""Weights-only loading: mmengine's own checkpoints load, and hostile ones run nothing."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SMALL_ARCH
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from mmsparx.models import SparXMamba, load_pretrained
from mmsparx.weights.files import read_state_dict
from mmsparx.weights.reading import allow_mmengine_globals, restricted_getattr, weights_only


class Global:
    """A name that pickle imports."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """A function that pickle calls."""

    def __init__(self, function, *args):
        self.function, self.args = function, args


class Build:
    """An object whose state pickle sets."""

    def __init__(self, obj, state):
        self.obj, self.state = obj, state


def assemble(x) -> bytes:
    """Pickle opcodes for an expression, down to what a pickler would never write."""
    if isinstance(x, Global):
        return f'c{x.module}\n{x.name}\n'.encode()
    if isinstance(x, Call):
        return assemble(x.function) + assemble(x.args) + pickle.REDUCE
    if isinstance(x, Build):
        return assemble(x.obj) + assemble(x.state) + pickle.BUILD
    if isinstance(x, str):
        return pickle.BINUNICODE + struct.pack('<I', len(x.encode())) + x.encode()
    if isinstance(x, bytes):
        return assemble(Call(Global('_codecs', 'encode'), x.decode('latin1'), 'latin1'))
    if isinstance(x, tuple):
        return pickle.MARK + b''.join(map(assemble, x)) + pickle.TUPLE
    if isinstance(x, list):
        return pickle.EMPTY_LIST + b''.join(assemble(item) + pickle.APPEND for item in x)
    if x is None:
        return pickle.NONE
    return pickle.BININT + struct.pack('<i', x)


def save_hostile(path, expression):
    """A checkpoint in torch's zip format whose pickle is `expression`."""
    good = io.BytesIO()
    torch.save({'weight': torch.zeros(1)}, good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, 'w') as target:
        for name in source.namelist():
            hostile = pickle.PROTO + b'\x02' + assemble(expression) + pickle.STOP
            target.writestr(name, hostile if name.endswith('data.pkl') else source.read(name))
    return str(path)


HISTORY_BUFFER = Global('mmengine.logging.history_buffer', 'HistoryBuffer')


def getattr_exploit(marker):
    """open(marker, 'w') from nothing but getattr and torch's own _rebuild_from_type_v2.

    The latter, which torch allows, calls whatever it is given; the former finds something to give:
    a function's globals, and in them the builtins.
    """

    def get(x, name):
        return Call(Global('builtins', 'getattr'), x, name)

    def call(function, kind, *args):
        return Call(Global('torch._tensor', '_rebuild_from_type_v2'), function, kind, args, None)

    function_globals = get(get(HISTORY_BUFFER, 'mean'), '__globals__')
    builtins = call(get(function_globals, 'get'), get(function_globals, '__class__'), '__builtins__')
    lookup = get(builtins, 'get')
    opener = call(lookup, get(lookup, '__class__'), 'open')
    return call(opener, get(function_globals, '__class__'), str(marker), 'w')


def run(code, *args):
    """A fresh Python process."""
    return subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True, check=False)


class TestOwnCheckpoints:
    CONTENT = {
        'loss': HistoryBuffer([3.0, 1.0, 2.0], [1, 1, 2]),
        'lr': np.float64(0.125),
        'iter': np.int64(7),
        'flag': np.bool_(True),
        'half': np.float16(0.5),
        'float32': np.arange(6, dtype=np.float32).reshape(2, 3),
        'fortran': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        'int8': np.arange(3, dtype=np.int8),
        'scalar array': np.array(2.5),
        'order': OrderedDict(a=1),
        'weight': torch.arange(3.0),
    }

    @pytest.fixture
    def path(self, tmp_path):
        torch.save({'state_dict': {}, 'message_hub': self.CONTENT}, tmp_path / 'epoch_1.pth')
        return str(tmp_path / 'epoch_1.pth')

    def assert_same(self, found):
        for name, expected in self.CONTENT.items():
            x = found[name]
            assert type(x) is type(expected), name
            if isinstance(x, np.ndarray):
                assert x.dtype == expected.dtype
                assert x.flags.f_contiguous == expected.flags.f_contiguous
                np.testing.assert_array_equal(x, expected)
            elif isinstance(x, HistoryBuffer):
                np.testing.assert_array_equal(x.data, expected.data)
                assert (x.mean(), x.min(), x.max(), x.current()) == (1.5, 1.0, 3.0, 2.0)
                assert x.statistics('max') == 3.0
                x.update(5.0)
                assert x.current() == 5.0
            elif isinstance(x, torch.Tensor):
                assert torch.equal(x, expected)
            else:
                assert x == expected

    def test_by_torch(self, path):
        self.assert_same(torch.load(path, weights_only=True)['message_hub'])

    def test_by_mmengine(self, path):
        # From torch 2.6 on weights-only is the default, below it our context says so.
        with weights_only():
            self.assert_same(CheckpointLoader.load_checkpoint(path, map_location='cpu')['message_hub'])

    def test_what_was_loaded_can_be_saved_again(self, path, tmp_path):
        torch.save(torch.load(path, weights_only=True), tmp_path / 'again.pth')
        self.assert_same(torch.load(tmp_path / 'again.pth', weights_only=True)['message_hub'])

    def test_repeated_permission(self, path):
        allow_mmengine_globals()
        allow_mmengine_globals()
        self.assert_same(torch.load(path, weights_only=True)['message_hub'])

    def test_in_a_process_without_the_package_they_do_not_load(self, path):
        # Else the permission would be pointless, and these tests as well.
        result = run('import sys, torch; torch.load(sys.argv[1], weights_only=True)', path)
        assert result.returncode == 1
        assert 'HistoryBuffer' in result.stderr


class TestRestrictedGetattr:
    @pytest.mark.parametrize('name', ['min', 'max', 'mean', 'current'])
    def test_history_buffers_statistics(self, name):
        assert restricted_getattr(HistoryBuffer, name) is getattr(HistoryBuffer, name)

    @pytest.mark.parametrize(
        ('obj', 'name'),
        [
            (HistoryBuffer, '__init__'),
            (HistoryBuffer, 'update'),
            (HistoryBuffer, '__class__'),
            (HistoryBuffer.mean, '__globals__'),
            (HistoryBuffer(), 'mean'),
            (type('HistoryBuffer', (HistoryBuffer,), {}), 'mean'),
            (os, 'system'),
            (HistoryBuffer, type('Name', (str,), {})('mean')),
            (HistoryBuffer, None),
        ],
        ids=lambda x: str(x)[:30],
    )
    def test_nothing_else(self, obj, name):
        with pytest.raises(pickle.UnpicklingError, match="Only HistoryBuffer's min, max, mean, current are allowed"):
            restricted_getattr(obj, name)


class TestHostileFiles:
    """Each is refused by every way to load it, and its marker file is never written."""

    def assert_harmless(self, path, marker, message=''):
        for load in (
            read_state_dict,
            lambda path: load_pretrained(SparXMamba(SMALL_ARCH), path),
            lambda path: torch.load(path, weights_only=True),
        ):
            with pytest.raises((RuntimeError, pickle.UnpicklingError), match=message):
                load(path)
            assert not marker.exists()
        with weights_only(), pytest.raises(pickle.UnpicklingError, match=message):
            CheckpointLoader.load_checkpoint(path)
        assert not marker.exists()

    @pytest.mark.parametrize('format_', ['zip', 'legacy', 'pickle'])
    def test_os_system(self, format_, tmp_path):
        marker, path = tmp_path / 'marker', tmp_path / 'x.pth'

        class Hostile:
            def __reduce__(self):
                return os.system, (f'echo > "{marker}"',)

        content = {'state_dict': {'weight': torch.zeros(1)}, 'meta': Hostile()}
        if format_ == 'pickle':
            path.write_bytes(pickle.dumps(content['meta'], 2))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=format_ == 'zip')
        torch.load(path, weights_only=False) if format_ != 'pickle' else pickle.loads(path.read_bytes())
        assert marker.exists()  # the file does what it should
        marker.unlink()
        self.assert_harmless(str(path), marker, 'system')

    def test_getattr(self, tmp_path):
        marker = tmp_path / 'marker'
        path = save_hostile(tmp_path / 'x.pth', getattr_exploit(marker))
        # With the builtin allowed, which some recommend, loading weights alone runs code ...
        code = (
            'import sys, torch, mmengine.logging\n'
            'history = mmengine.logging.HistoryBuffer\n'
            'torch.serialization.add_safe_globals([history, getattr])\n'
            'torch.load(sys.argv[1], weights_only=True)'
        )
        result = run(code, path)
        assert marker.exists(), result.stderr
        marker.unlink()
        # ... and with ours it does not.
        self.assert_harmless(path, marker, "asks for the attribute '__globals__'")

    def test_getattr_smuggled_as_an_argument(self, tmp_path):
        # Not called by pickle but by a function that torch allows.
        rebuild = Global('torch._tensor', '_rebuild_from_type_v2')
        path = save_hostile(
            tmp_path / 'x.pth', Call(rebuild, Global('builtins', 'getattr'), None, (HISTORY_BUFFER, '__init__'), None)
        )
        self.assert_harmless(path, tmp_path / 'marker', "asks for the attribute '__init__'")

    def test_arrays_make_no_pointers(self, tmp_path):
        # With numpy.ndarray callable, an object array over the file's own bytes holds pointers of the
        # file's choice, and whatever touches its items, as HistoryBuffer does, follows them.
        arrays, buffer = Global('numpy', 'ndarray'), b'AAAAAAAA'
        called = Call(arrays, (1,), 'O', buffer)
        smuggled = Call(Global('torch._tensor', '_rebuild_from_type_v2'), arrays, arrays, ((1,), 'O', buffer), None)
        # By the way that pickle takes, numpy itself wants a list of objects.
        state = (1, (1,), Call(Global('numpy', 'dtype'), 'O8'), 0, buffer)
        filled = [
            Build(Call(Global(module, '_reconstruct'), arrays, (0,), b'b'), state)
            for module in ('numpy.core.multiarray', 'numpy._core.multiarray')
        ]
        paths = [
            save_hostile(tmp_path / f'{i}.pth', Call(HISTORY_BUFFER, array, [0]))
            for i, array in enumerate((called, smuggled, *filled))
        ]
        # In a process of its own, since the alternative is a crash.
        result = run(
            'import sys, mmsparx.models, torch\n'
            'for path in sys.argv[1:]:\n'
            '    try:\n'
            '        print(torch.load(path, weights_only=True).data)\n'
            '    except Exception as error:\n'
            '        print(str(error).replace(chr(10), " "))',
            *paths,
        )
        assert result.returncode == 0, result.returncode
        by_call, by_smuggling, *by_state = result.stdout.splitlines()
        assert 'a checkpoint calls numpy.ndarray' in by_call
        assert 'a checkpoint calls numpy.ndarray' in by_smuggling
        assert all('object pickle not returning list' in line for line in by_state)

    @pytest.mark.parametrize(
        'name',
        ['builtins eval', 'builtins exec', 'builtins __import__', 'posix system', 'operator attrgetter'],
    )
    def test_other_globals(self, name, tmp_path):
        path = save_hostile(tmp_path / 'x.pth', Call(Global(*name.split()), '1'))
        self.assert_harmless(path, tmp_path / 'marker', name.split()[1])


class TestContext:
    SWITCH = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'

    @pytest.fixture(autouse=True)
    def _clean(self, monkeypatch):
        monkeypatch.delenv(self.SWITCH, raising=False)
        monkeypatch.delenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', raising=False)

    @pytest.mark.parametrize('before', [None, '0'])
    def test_leaves_the_environment_as_it_was(self, before, monkeypatch):
        if before is not None:
            monkeypatch.setenv(self.SWITCH, before)
        with weights_only():
            assert os.environ[self.SWITCH] == '1'
        assert os.environ.get(self.SWITCH) == before
        with pytest.raises(KeyError), weights_only():
            raise KeyError
        assert os.environ.get(self.SWITCH) == before

    def test_holds_for_a_load_that_does_not_say(self, tmp_path):
        torch.save({'path': Path('x')}, tmp_path / 'x.pth')
        with weights_only(), pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / 'x.pth')

    def test_refuses_where_safe_loading_is_switched_off(self, monkeypatch):
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
        with pytest.raises(RuntimeError, match='LOAD switches safe loading off'), weights_only():
            raise AssertionError('not reached')
        with pytest.raises(RuntimeError, match='Unset it'):
            read_state_dict('nonesuch.pth')
