"""`python -m mmsparx doctor` as a user runs it: in the environment of the tests, and in broken ones."""

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
from contextlib import suppress

import pytest

import mmsparx
from mmsparx.__main__ import main
from mmsparx.doctor import backends as doctor_backends
from mmsparx.doctor import environment, isolated
from mmsparx.doctor.environment import VARIABLES, Environment
from mmsparx.doctor.report import as_text, make_report
from mmsparx.ops import available_backends
from mmsparx.ops.selective_scan import backends, native, reference

ROOT = os.path.dirname(os.path.dirname(mmsparx.__file__))


def run_doctor(*arguments, planted=None):
    """In another process; `planted` is a folder of packages that are found first."""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    path = os.pathsep.join(filter(None, [planted and str(planted), os.environ.get('PYTHONPATH')]))
    return subprocess.run(
        [sys.executable, '-m', 'mmsparx', 'doctor', *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=clean | {'PYTHONPATH': path},
    )


def plant(folder, **sources):
    """Packages with these sources; '' is a package that does nothing."""
    for name, source in sources.items():
        (folder / name).mkdir()
        (folder / name / '__init__.py').write_text(source)
    return folder


@pytest.fixture(scope='module')
def healthy():
    """The report of this environment, all of which is imported."""
    done = run_doctor('--json')
    report = json.loads(done.stdout)
    errors = [row for row in (*report['checks'], *report['backends']) if row['status'] == 'error']
    assert (done.returncode, errors, done.stderr) == (0, [], '')
    return report


class TestThisEnvironment:
    def test_the_schema(self, healthy):
        assert list(healthy) == ['status', 'python', 'versions', 'gpus', 'backends', 'checks']
        assert healthy['status'] in ('ok', 'note', 'warning')
        assert healthy['python'] == sys.executable
        for row in healthy['checks']:
            assert list(row) == ['name', 'status', 'found', 'mend']
            assert row['status'] in ('ok', 'note', 'warning')
            assert (row['found'] == '') == (row['status'] == 'ok')
        for row in healthy['backends']:
            assert list(row) == ['name', 'device', 'instruction_set', 'in_use', 'status', 'found', 'mend']

    def test_the_versions(self, healthy):
        versions = healthy['versions']
        assert versions['mmsparx'] == mmsparx.__version__
        assert versions['torch'].startswith(importlib.metadata.version('torch'))
        for name, distribution in {'numpy': 'numpy', 'mmdet': 'mmdet', 'mmseg': 'mmsegmentation'}.items():
            expected = None
            with suppress(importlib.metadata.PackageNotFoundError):
                expected = importlib.metadata.version(distribution)
            assert versions[name] == expected

    def test_every_backend_is_checked(self, healthy):
        rows = healthy['backends']
        devices = {backend.name: backend.devices for backend in backends.BACKENDS if backend.devices}
        for name, missing in available_backends().items():
            found = [row for row in rows if row['name'] == name]
            if missing is None:
                used = [row for row in found if row['device'] in devices.get(name, {'cpu'})]
                assert {'ok'} >= {row['status'] for row in used}
                assert used or name in devices
            else:
                assert [row['found'] for row in found] == [missing]
        compiled = [row for row in rows if row['name'] == 'native' and row['device'] == 'cpu']
        assert tuple(row['instruction_set'] for row in compiled) == native.instruction_sets()
        for row in healthy['backends']:
            assert row['status'] in ('ok', 'unavailable')
            assert ('tolerance' in row['found']) == (row['status'] == 'ok')

    def test_the_text(self, healthy):
        text = as_text(healthy)
        assert f'mmsparx {mmsparx.__version__}, Python ' in text
        assert text.endswith(f'\nstatus: {healthy["status"]}')
        for row in healthy['backends']:
            assert row['found'] in text
        # Of the checks, what needs attention alone.
        for row in healthy['checks']:
            assert (f': {row["name"]}: ' in text) == (row['status'] != 'ok')


class TestABrokenOne:
    def test_an_undefined_symbol_of_mmcv(self, tmp_path):
        """Beside stand-ins for the packages that take long to import."""
        symbol = 'mmcv/_ext.so: undefined symbol: _ZN3c105ErrorE'
        plant(
            tmp_path,
            mmcv=f'raise ImportError({symbol!r})',
            mmdet='import mmcv',
            **dict.fromkeys(('torchvision', 'mmseg', 'mmpretrain'), ''),
        )
        done = run_doctor(planted=tmp_path)
        assert done.returncode == 1
        assert done.stderr == ''
        found = f'error: imports: mmcv cannot be imported: it was compiled for another torch: ImportError: {symbol}'
        finding, mend = done.stdout.partition(found)[2].splitlines()[:2]
        assert finding == '; for the same reason: mmcv.ops, mmdet'
        assert mend.startswith('    mend: ')
        assert 'MMCV_WITH_OPS=1 CFLAGS="-g0 -w" pip install --no-cache-dir --no-build-isolation' in mend
        assert done.stdout.endswith('\nstatus: error\n')

    def test_torch_that_cannot_be_imported(self, tmp_path):
        plant(tmp_path, torch="raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
        done = run_doctor(planted=tmp_path)
        assert done.returncode == 1
        assert done.stderr == ''
        assert "error: imports: torch cannot be imported: ModuleNotFoundError: No module named 'torch'" in done.stdout
        assert 'pip install torch==' in done.stdout
        assert 'not checked, since mmsparx.ops cannot be imported' in done.stdout


@pytest.fixture
def here(monkeypatch):
    """Of all imports torch and the scan's, in this process, where a test can break them."""

    def run(calls):
        outcomes = {}
        for call in calls:
            name, _, function = call.partition(':')
            function, *arguments = function.split() or [None]
            module = importlib.import_module(name)
            try:
                outcomes[call] = (getattr(module, function)(*arguments) if function else None, None)
            except Exception as error:
                outcomes[call] = (None, f'{type(error).__name__}: {error}')
        return outcomes

    monkeypatch.setattr(isolated, 'run', run)
    monkeypatch.setattr(environment, '_IMPORTS', {'torch': None, 'mmsparx.ops': None})
    monkeypatch.setattr(backends, '_told', set())
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures('here')
class TestABrokenBackend:
    @pytest.fixture
    def add(self, monkeypatch):
        def add(**functions):
            functions = {'forward': reference.forward, 'backward': reference.backward} | functions
            table = [backends.Backend('broken', **functions), *backends.BACKENDS]
            monkeypatch.setattr(backends, 'BACKENDS', table)
            monkeypatch.setattr(doctor_backends, 'BACKENDS', table)

        return add

    def test_none(self, capsys):
        assert main(['doctor', '--json']) == 0
        assert json.loads(capsys.readouterr().out)['status'] != 'error'

    def test_wrong_numbers(self, add, capsys):
        add(forward=lambda *arguments: tuple(1.1 * x for x in reference.forward(*arguments)))
        assert main(['doctor', '--json']) == 1
        report = json.loads(capsys.readouterr().out)
        assert report['status'] == 'error'
        row = report['backends'][0]
        assert (row['name'], row['status'], row['in_use']) == ('broken', 'error', True)
        assert row['found'].startswith('ArithmeticError: relative error')
        assert row['mend'] == 'export MMSPARX_SCAN_BACKEND=reference'
        assert {row['status'] for row in report['backends'][1:]} <= {'ok', 'unavailable'}

    def test_an_exception(self, add, capsys):
        def backward(*_):
            raise OverflowError('out of range')

        add(backward=backward)
        assert main(['doctor']) == 1
        printed = capsys.readouterr().out
        assert 'error: broken: OverflowError: out of range\n    mend: export MMSPARX_SCAN_BACKEND=reference' in printed


class TestTheReport:
    def test_what_is_not_installed(self):
        env = Environment(versions={'mmsparx': '0.1.0', 'torch': '2.11.0'}, imports={'torch': None})
        report = make_report(env)
        assert (report['status'], report['versions']['mmdet'], report['gpus']) == ('ok', None, [])
        text = as_text(report)
        assert 'mmdet        not installed; it comes with pip install "mmsparx[det]"\n' in text
        assert 'mmcv         not installed\n' in text

    def test_no_torch(self):
        report = make_report(Environment(imports={'torch': "ModuleNotFoundError: No module named 'torch'"}))
        assert (report['status'], report['versions']['torch'], report['backends']) == ('error', None, [])
        assert 'torch        not installed\n' in as_text(report)

    def test_forks(self):
        env = Environment(
            versions={'mmsparx': '0.1.0', 'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6'},
            imports={'mmengine': None, 'mmpretrain': None},
        )
        text = as_text(make_report(env))
        assert 'mmengine     0.10.12 (onedl-mmengine)\n' in text
        assert 'mmdet        not installed; it comes with pip install onedl-mmdetection\n' in text
        assert 'mmpretrain   without metadata\n' in text

    def test_gpus(self):
        gpu = {'name': 'NVIDIA H100', 'capability': '9.0', 'memory_gib': 79.6}
        report = make_report(Environment(torch={'version': '2.11.0+cu130', 'cuda': '13.0', 'gpus': [gpu]}))
        assert (report['gpus'], report['versions']['cuda']) == ([gpu], '13.0')
        assert 'GPU          NVIDIA H100, capability 9.0, 79.6 GiB\n' in as_text(report)

    @pytest.mark.parametrize(
        ('variables', 'versions', 'status'),
        [
            ({}, {}, 'ok'),
            ({}, {'openmim': '0.3.9'}, 'note'),
            ({}, {'openmim': '0.3.9', 'torch': '2.11.0', 'torchvision': '0.25.0'}, 'warning'),
            ({'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD': '1'}, {'openmim': '0.3.9'}, 'error'),
        ],
    )
    def test_the_status_is_the_worst(self, variables, versions, status):
        assert make_report(Environment(variables=variables, versions=versions))['status'] == status


@pytest.mark.parametrize('arguments', [[], ['doctors'], ['doctor', '--yaml']])
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert 'usage: python -m mmsparx' in capsys.readouterr().err
