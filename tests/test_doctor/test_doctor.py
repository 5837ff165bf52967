"""`python -m mmsparx doctor` as a user runs it: in the environment of the tests, and in broken ones."""

import importlib.metadata
import json
import os
import subprocess
import sys

import pytest

import mmsparx
from mmsparx.__main__ import main
from mmsparx.doctor import backends as doctor_backends
from mmsparx.doctor import environment, isolated
from mmsparx.doctor.environment import VARIABLES, Environment
from mmsparx.doctor.report import as_text, make_report
from mmsparx.ops import native
from mmsparx.ops.selective_scan import backends, reference

ROOT = os.path.dirname(os.path.dirname(mmsparx.__file__))


def run_doctor(*arguments, planted=None):
    """Run the doctor in another process; `planted` is a folder of packages that are found first."""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    path = os.pathsep.join(filter(None, [planted and str(planted), os.environ.get('PYTHONPATH')]))
    command = [sys.executable, '-m', 'mmsparx', 'doctor', *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=clean | {'PYTHONPATH': path})


def test_this_environment():
    done = run_doctor('--json')
    report = json.loads(done.stdout)
    errors = [row for row in (*report['checks'], *report['backends']) if row['status'] == 'error']
    assert (done.returncode, errors, done.stderr) == (0, [], '')
    assert list(report) == ['status', 'python', 'versions', 'gpus', 'backends', 'ort_library', 'checks']
    assert report['python'] == sys.executable
    assert report['versions']['mmsparx'] == mmsparx.__version__
    assert report['versions']['torch'].startswith(importlib.metadata.version('torch'))
    for row in report['checks']:
        assert list(row) == ['name', 'status', 'found', 'fix']
        assert (row['found'] == '') == (row['status'] == 'ok')
    for row in report['backends']:
        assert list(row) == ['name', 'device', 'instruction_set', 'in_use', 'status', 'found', 'fix']
        assert ('tolerance' in row['found']) == (row['status'] == 'ok')
    compiled = [
        row['instruction_set'] for row in report['backends'] if row['status'] == 'ok' and row['name'] == 'native'
    ]
    assert set(compiled) >= set(native.instruction_sets())
    assert report['ort_library']['status'] == ('ok' if native.without_ort() is None else 'unavailable')
    text = as_text(report)
    assert f'Library of the scans for onnxruntime: {report["ort_library"]["status"]}' in text
    assert text.endswith(f'\nstatus: {report["status"]}')
    for row in (*report['backends'], *report['checks']):
        assert row['found'] in text


# Stand-ins for packages that take long to import.
STAND_INS = {'torchvision/__init__.py': '', 'mmcv/__init__.py': '', 'mmcv/ops.py': 'get_compiling_cuda_version = str'}
PARTS = ('models', 'datasets', 'engine', 'evaluation', 'visualization')
STAND_INS |= {f'{name}/{part}.py': '' for name in ('mmdet', 'mmseg', 'mmpretrain') for part in ('__init__', *PARTS)}
SYMBOL = 'mmcv/_ext.so: undefined symbol: _ZN3c105ErrorE'


@pytest.mark.parametrize(
    ('planted', 'found', 'also', 'fix'),
    [
        (
            {'mmcv/ops.py': f'raise ImportError({SYMBOL!r})', 'mmdet/models.py': 'import mmcv.ops'},
            f'mmcv.ops cannot be imported: it was compiled for another torch: ImportError: {SYMBOL}',
            '; for the same reason: mmdet.models',
            'MMCV_WITH_OPS=1 CFLAGS="-g0 -w" pip install --no-cache-dir --no-build-isolation --no-binary mmcv mmcv==',
        ),
        (
            {
                'transformers-5.24.0.dist-info/METADATA': 'Name: transformers\nVersion: 5.24.0\n',
                'mmpretrain/multimodal/blip.py': 'class Bert(None): pass',
                **{
                    f'{name}/models.py': 'import mmpretrain.multimodal.blip'
                    for name in ('mmdet', 'mmseg', 'mmpretrain')
                },
            },
            'mmdet.models cannot be imported: mmpretrain, and so mmdet and mmseg, import their multimodal models',
            ' (in mmpretrain.multimodal.blip); for the same reason: mmseg.models, mmpretrain.models',
            'pip uninstall -y transformers',
        ),
        (
            {'torch/__init__.py': "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"},
            "torch cannot be imported: ModuleNotFoundError: No module named 'torch'",
            'mmsparx.ops',
            'pip install torch==',
        ),
    ],
)
def test_a_broken_one(planted, found, also, fix, tmp_path):
    """The top-level packages of the first two can be imported."""
    for path, source in (STAND_INS | planted).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)
    done = run_doctor(planted=tmp_path)
    assert (done.returncode, done.stderr) == (1, '')
    line, fixed = done.stdout.partition(f'error: imports: {found}')[2].splitlines()[:2]
    assert also in line
    assert fixed.startswith('    fix: ')
    assert fix in fixed
    assert done.stdout.endswith('\nstatus: error\n')


@pytest.mark.parametrize(
    ('function', 'found'),
    [(lambda *x: tuple(1.1 * y for y in reference.forward(*x)), 'ArithmeticError: relative error'), (len, 'TypeError')],
)
def test_a_broken_backend(function, found, monkeypatch, capsys):
    """The check runs in this process, where a test can break a backend; it only tries torch and the scan."""

    def run(calls):
        outcomes = {}
        for call in calls:
            name, *arguments = call.partition(':')[2].split() or ['__doc__']
            try:
                outcomes[call] = (getattr(doctor_backends, name)(*arguments) if ':' in call else None, None)
            except Exception as error:
                outcomes[call] = (None, f'{type(error).__name__}: {error}')
        return outcomes

    broken = backends.Backend('broken', forward=function, backward=reference.backward)
    table = [broken, *(backend for backend in backends.BACKENDS if backend.name == 'reference')]
    for module in (backends, doctor_backends):
        monkeypatch.setattr(module, 'BACKENDS', table)
    monkeypatch.setattr(isolated, 'run', run)
    monkeypatch.setattr(environment, '_TRIED', {'torch': environment._TRIED['torch']})
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert main(['doctor', '--json']) == 1
    row, other = json.loads(capsys.readouterr().out)['backends']
    assert (row['name'], row['status'], row['in_use'], other['status']) == ('broken', 'error', True, 'ok')
    assert row['found'].startswith(found)
    assert row['fix'] == 'export MMSPARX_SCAN_BACKEND=reference'


def test_distributions(tmp_path, monkeypatch):
    """pip leaves such folders: both families of OpenMMLab, another spelling, and a distribution that was cut off."""
    for name, version in {'mmengine': '0.10.7', 'onedl_mmengine': '0.10.12', 'onedl-mmcv': '2.3.6'}.items():
        folder = tmp_path / f'{name}-{version}.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
    (tmp_path / 'mmdet-3.3.0.dist-info').mkdir()
    monkeypatch.setattr('sys.path', [str(tmp_path)])
    monkeypatch.setattr(isolated, 'run', lambda calls: dict.fromkeys(calls, (None, 'ImportError: not tried')))
    monkeypatch.setattr(environment, 'find_spec', lambda name: name == 'mmdet' or None)
    env = environment.look()
    assert [env.providers(name) for name in ('mmengine', 'mmdet')] == [['mmengine', 'onedl-mmengine'], []]
    assert list(env.imports) == ['torch', 'mmsparx.ops', *(f'mmdet.{part}' for part in PARTS)]
    text = as_text(make_report(env))
    assert 'mmengine     0.10.7, 0.10.12 (onedl-mmengine)\nmmcv         2.3.6 (onedl-mmcv)\nmmdet        none\n' in text


def test_gpus():
    gpu = {'name': 'NVIDIA H100', 'capability': '9.0', 'memory_gib': 79.6}
    library = {'status': 'unavailable', 'found': 'it was not compiled: no compiler', 'fix': 'pip install'}
    torch = {'version': '2.11.0+cu130', 'cuda': '13.0', 'gpus': [gpu], 'ort_library': library}
    report = make_report(Environment(torch=torch))
    assert (report['gpus'], report['versions']['cuda'], report['status']) == ([gpu], '13.0', 'ok')
    assert 'GPU          NVIDIA H100, capability 9.0, 79.6 GiB\n' in as_text(report)
    assert '\nLibrary of the scans for onnxruntime: unavailable, it was not compiled: no compiler\n' in as_text(report)


@pytest.mark.parametrize('arguments', [[], ['doctors'], ['doctor', '--yaml']])
def test_bad_arguments(arguments, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['a/mmsparx/__main__.py'])
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert 'usage: python -m mmsparx' in capsys.readouterr().err
