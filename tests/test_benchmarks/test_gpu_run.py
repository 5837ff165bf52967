"""`python -m benchmarks.gpu`: stages that pass, fail, hang and cannot be run."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmengine')
pytest.importorskip('timm')
from helpers import SMALL_ARCH

from benchmarks import command_line, cross_selective_scan, map_norm, network, network_profile, sanitize, selective_scan
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import load, runner, stages
from benchmarks.gpu.runner import FAILED, NOT_RUN, PASSED, TIMED_OUT, Run, Stage
from benchmarks.report import Report
from mmsparx.models import SparXMamba
from mmsparx.ops import native

ROOT = Path(__file__).parents[2]
CPU = torch.device('cpu')
HANG = '{python} -X faulthandler -c \'import time; print("warming up triton", flush=True); time.sleep(60)\''
PASS = "{python} -c 'print(1)'"
TABLE = '{python} -m benchmarks.map_norm --shapes 1x2x3x4 --seconds 0.001 --samples 3 --out {folder} --name {name}'
TABLE += ' --dtypes float32 --passes forward'


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs stages; returns (whether all have passed, the outcomes by stage, the archive's files by name)."""
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setattr(runner, 'GRACE', 2.0)

    def run(*chosen, limit=100.0):
        made = Run(tmp_path / 'deep' / 'all.zip', ROOT, limit, 'title')
        passed = made(chosen)
        with zipfile.ZipFile(made.archive) as archive:
            files = {name: archive.read(name).decode() for name in archive.namelist()}
        assert [path.name for path in made.archive.parent.iterdir()] == ['all.zip']
        assert files['summary.md'] == made.summary
        assert [entry['stage'] for entry in json.loads(files['summary.json'])] == [stage.name for stage in chosen]
        return passed, {outcome.stage: outcome for outcome in made.outcomes}, files

    return run


@pytest.fixture
def impatient(monkeypatch):
    """Return `impatient(text)`, which ends the time limit of a command once its log contains `text`."""

    def impatient(says):
        class Command(subprocess.Popen):
            def __init__(self, *arguments, stdout, **options):
                super().__init__(*arguments, stdout=stdout, **options)
                self.log = Path(stdout.name)

            def wait(self, timeout=None):
                if timeout is None or timeout <= runner.GRACE:
                    return super().wait(timeout)
                while self.poll() is None:
                    if says in self.log.read_text():
                        raise subprocess.TimeoutExpired(self.args, timeout)
                    time.sleep(0.05)
                return self.returncode

        monkeypatch.setattr(runner.subprocess, 'Popen', Command)

    return impatient


def test_stages_that_pass(run):
    passed, outcomes, files = run(Stage('plain', 300, {'a': PASS, 'b': PASS}), Stage('table', 300, {'norms': TABLE}))
    assert passed
    assert {outcome.status for outcome in outcomes.values()} == {PASSED}
    assert outcomes['plain'].remarks == ['ran to the end']
    assert outcomes['table'].remarks == ['norms: 4 rows measured']
    assert files['plain/a.log'].splitlines()[1:] == ['1']
    assert any(re.fullmatch(r'table/[\w-]+/norms\.md', name) for name in files)


def test_a_command_that_hangs_takes_its_stage_alone(run):
    start = time.monotonic()
    passed, outcomes, files = run(Stage('hung', 6, {'a': HANG, 'b': PASS}), Stage('next', 300, {'c': PASS}))
    assert not passed
    assert time.monotonic() - start < 40
    assert outcomes['hung'].status == TIMED_OUT
    assert outcomes['hung'].remarks == ['a: ended after 6 s, last line: warming up triton']
    assert 'most recent call first' in files['hung/a.log']  # the traceback of the command
    assert 'hung/b.log' not in files
    assert outcomes['next'].status == PASSED


def test_measurements_before_a_hanging_contender_are_kept(run, impatient, tmp_path):
    impatient('hangs')
    script = tmp_path / 'hang.py'
    script.write_text(f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from benchmarks import map_norm
calls = []
def hang(x, weight, bias):
    calls.append(x)
    if x.dtype.itemsize == 2:
        print('hangs', flush=True)
        time.sleep(600)
    return x
map_norm.CONTENDERS['hanging'] = hang
map_norm.main(sys.argv[1:])
""")
    command = TABLE.replace('-m benchmarks.map_norm', shlex.quote(str(script))).replace('float32', 'float32 bfloat16')
    _, outcomes, files = run(Stage('hung', 90, {'norms': command}))
    assert outcomes['hung'].status == TIMED_OUT
    assert outcomes['hung'].remarks == [
        'norms: 5 rows measured', 'norms: ended after 90 s, last line: hangs',
    ]  # fmt: skip
    (table,) = (text for name, text in files.items() if name.endswith('norms.md'))
    assert 'hanging' in table


def test_a_process_that_ignores_its_end_is_killed_with_its_children(run, impatient, tmp_path):
    impatient('\nstarted\n')  # the log begins with the code
    note = tmp_path / 'child'
    code = (
        'import signal, subprocess, sys, time; signal.signal(signal.SIGABRT, signal.SIG_IGN); '
        f'child = subprocess.Popen(["sleep", "60"]); open({str(note)!r}, "w").write(str(child.pid)); '
        'print("started", flush=True); time.sleep(60)'
    )
    _, outcomes, _ = run(Stage('hung', 90, {'a': f'{{python}} -c {shlex.quote(code)}'}))
    assert outcomes['hung'].status == TIMED_OUT
    state = Path(f'/proc/{note.read_text()}/stat')
    deadline = time.monotonic() + 20  # a signal takes time
    while state.exists() and state.read_text().split()[2] != 'Z':
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ('command', 'remark'),
    [
        ('{python} -c \'import sys; print(1); sys.exit("no kernels")\'', 'a: exit status 1, last line: no kernels'),
        ("{python} -c 'import os; os._exit(3)'", 'a: exit status 3, its log is empty'),
        ("{python} -c 'import os, signal; os.kill(os.getpid(), signal.SIGSEGV)'", 'a: exit status -11, its log is'),
        ('no-such-program', "FileNotFoundError: [Errno 2] No such file or directory: 'no-such-program'"),
    ],
)
def test_a_command_that_fails(command, remark, run):
    passed, outcomes, _ = run(Stage('failing', 300, {'a': command, 'b': PASS}, remark='alone'))
    assert not passed
    assert outcomes['failing'].status == FAILED
    assert outcomes['failing'].remarks[0] == 'alone'
    assert outcomes['failing'].remarks[1].startswith(remark)


def test_a_contender_that_fails_is_no_success(run, tmp_path):
    script = tmp_path / 'fail.py'
    script.write_text(f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from benchmarks import map_norm
class CompilationError(Exception):
    pass
def fail(*_):
    raise CompilationError('at 1:0:\\n  kernel')
map_norm.CONTENDERS['failing'] = fail
map_norm.main(sys.argv[1:])
""")
    _, outcomes, _ = run(
        Stage('table', 300, {'norms': TABLE.replace('-m benchmarks.map_norm', shlex.quote(str(script)))})
    )
    assert outcomes['table'].status == FAILED
    assert outcomes['table'].remarks == [
        'norms: 4 rows measured',
        'norms: 1 of 5 rows not measured (failing: CompilationError: at 1:0: kernel)',
    ]


@pytest.mark.parametrize(
    ('body', 'status', 'remark'),
    [
        ('def test_a(): pass\ndef test_b(): pytest.skip("no")', PASSED, '1 tests passed, 1 skipped'),
        ('def test_a(): pytest.skip("needs a GPU")', FAILED, 'no test passed, 1 skipped'),
        ('def test_a(): pass\ndef test_b(): assert 0', FAILED, '1 tests failed (the first: test_it::test_b)'),
        ('', FAILED, 'no test passed, 0 skipped'),
    ],
)
def test_tests(body, status, remark, run, tmp_path):
    (tmp_path / 'test_it.py').write_text(f'import pytest\n{body}\n')
    command = f'{{python}} -m pytest -v -p no:cacheprovider --junitxml {{folder}}/junit.xml {tmp_path}/test_it.py'
    _, outcomes, _ = run(Stage('tests', 300, {'pytest': f'{command} --rootdir {tmp_path}'}))
    assert outcomes['tests'].status == status
    assert remark in outcomes['tests'].remarks


def test_tests_that_hang_say_how_many_had_passed(run, impatient, tmp_path):
    impatient('PASSED')
    (tmp_path / 'test_it.py').write_text('import time\ndef test_a(): pass\ndef test_b(): time.sleep(60)\n')
    command = f'{{python}} -u -m pytest -v -p no:cacheprovider {tmp_path}/test_it.py --rootdir {tmp_path}'
    _, outcomes, _ = run(Stage('tests', 90, {'pytest': command}))
    assert outcomes['tests'].status == TIMED_OUT
    assert 'pytest: ended after 90 s, 1 tests had passed, last line: ' in outcomes['tests'].remarks[0]


def test_stages_without_time_left_are_reported_as_not_run(run):
    passed, outcomes, files = run(Stage('hung', 60, {'a': HANG}), Stage('next', 300, {'b': PASS}), limit=6)
    assert not passed
    assert (outcomes['hung'].status, outcomes['next'].status) == (TIMED_OUT, NOT_RUN)
    assert outcomes['next'].remarks == ['no time is left']
    assert 'not run' in files['summary.md']
    assert not any(name.startswith('next/') for name in files)


def test_commands_of_a_stage_can_run_side_by_side(run):
    wait = '{python} -c \'import pathlib, time; pathlib.Path("{folder}/{name}.started").touch(); ' + (
        'deadline = time.time() + 30; '
        'print(any(len(list(pathlib.Path("{folder}").glob("*.started"))) == 3 or time.sleep(0.1) '
        "for _ in iter(lambda: time.time() < deadline, False)))'"
    )
    _, outcomes, files = run(Stage('beside', 300, dict.fromkeys('abc', wait), together=True))
    assert outcomes['beside'].status == PASSED
    assert all(files[f'beside/{name}.log'].endswith('True\n') for name in 'abc')


def start(*arguments, out):
    command = [sys.executable, '-m', 'benchmarks.gpu', *arguments, '--device', 'cpu', '--out', str(out)]
    variables = {name: value for name, value in os.environ.items() if not name.startswith('PYTEST_')}
    return subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_the_command_on_a_cpu(tmp_path):
    process = start('norm', 'detection', out=tmp_path)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert 'Rehearsal on a CPU, of small sizes: no GPU was used' in said
    assert '| norm ' in said
    with zipfile.ZipFile(tmp_path / 'norm_detection.zip') as archive:
        names = archive.namelist()
    assert {name.partition('/')[0] for name in names} == {'norm', 'detection', 'summary.md', 'summary.json'}
    assert sum(name.endswith('.json') for name in names) == 3


def test_a_terminated_run_keeps_its_results(tmp_path):
    process = start('norm', 'network', 'memcheck', out=tmp_path)
    for line in process.stdout:
        if line.startswith('==> network'):
            break
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0]
    assert process.returncode == 128 + signal.SIGTERM, said
    with zipfile.ZipFile(tmp_path / 'norm_network_memcheck.zip') as archive:
        outcomes = {entry['stage']: entry for entry in json.loads(archive.read('summary.json'))}
    assert {name: entry['status'] for name, entry in outcomes.items()} == {
        'norm': PASSED, 'network': FAILED, 'memcheck': NOT_RUN,
    }  # fmt: skip
    assert outcomes['network']['remarks'] == ['the run was ended meanwhile']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['tests', 'speed', '--device', 'cpu'], r"expected first, second, or some of load, .*, got 'speed'"),
        pytest.param(
            [], 'this torch sees no GPU', marks=pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
        ),
    ],
)
def test_bad_calls(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        gpu.main([*arguments, '--out', str(tmp_path / 'out')])
    assert error.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / 'out').exists()


def test_both_devices_have_every_stage_and_the_calls_name_them():
    on_gpu, on_cpu = stages.stages_of('cuda'), stages.stages_of('cpu')
    assert list(on_gpu) == list(on_cpu)
    assert set(stages.CALLS['first']) | set(stages.CALLS['second']) == set(on_gpu)
    assert stages.CALLS['first'][0] == stages.CALLS['second'][0] == 'load'


def test_benchmarks_accept_the_options_of_the_gpu_stages(monkeypatch, tmp_path):
    """Every benchmark accepts the options that the stages pass to it."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(command_line, 'run', lambda *_: None)
    for module in (load, sanitize, network_profile):
        monkeypatch.setattr(module, 'main', lambda argv: None)
    known = {
        module.__name__: module
        for module in (selective_scan, cross_selective_scan, network, map_norm, load, sanitize, network_profile)
    }
    seen = set()
    for stage in stages.stages_of('cuda').values():
        for name, command in stage.commands.items():
            words = [word.format(python='python', folder=tmp_path, name=name) for word in shlex.split(command)]
            module = words[words.index('-m') + 1]
            seen.add(module)
            if module in known:
                known[module].main(words[words.index('-m') + 2 :])
    assert seen == {*known, 'pytest'}


class TestLoad:
    def test_here(self, capsys):
        if native.missing():
            pytest.skip(f'the compiled kernels are not here: {native.missing()}')
        assert load.main(['--device', 'cpu', load.BUILT]) == (load.unusable(CPU) is not None)
        assert 'native:' in capsys.readouterr().out

    def test_missing_kernels_are_built_and_then_looked_at(self, monkeypatch, capsys):
        ran = []
        monkeypatch.setattr(native, 'missing', lambda: 'it was not compiled')
        monkeypatch.setattr(
            load.subprocess, 'run', lambda command, **_: ran.append(command) or subprocess.CompletedProcess(command, 0)
        )
        assert load.main(['--device', 'cpu']) == 0
        assert ran[0][1:] == ['setup.py', 'build_ext', '--inplace']
        assert ran[1][-1] == load.BUILT
        assert 'cannot be used: it was not compiled' in capsys.readouterr().out

    def test_a_build_that_fails_is_a_failure(self, monkeypatch, capsys):
        monkeypatch.setattr(native, 'missing', lambda: 'it was not compiled')
        monkeypatch.setattr(load.subprocess, 'run', lambda command, **_: subprocess.CompletedProcess(command, 1))
        assert load.main(['--device', 'cpu']) == 1
        assert 'the build has failed' in capsys.readouterr().err

    def test_kernels_that_are_still_missing_are_a_failure(self, monkeypatch, capsys):
        monkeypatch.setattr(native, 'missing', lambda: 'it was not compiled')
        assert load.main(['--device', 'cpu', load.BUILT]) == 1
        assert capsys.readouterr().err.splitlines()[-1] == 'native: it was not compiled'

    def test_kernels_of_other_sources_are_not_used(self, monkeypatch):
        monkeypatch.setattr(native, 'missing', lambda: None)
        monkeypatch.setattr(native, 'refusal', lambda u: None)
        monkeypatch.setattr(native, 'build_info', lambda: {'sources': '0' * 64})
        assert load.unusable(CPU) == 'they were compiled from other sources than those of this checkout'

    def test_a_wrong_scan_is_a_failure(self, monkeypatch):
        monkeypatch.setattr(load, 'unusable', lambda device: None)
        monkeypatch.setattr(sanitize, 'main', lambda argv: 1)
        assert load.main(['--device', 'cpu']) == 1


def test_the_norms_agree(tmp_path, monkeypatch):
    path = map_norm.main([
        '--shapes', '2x3x4x5', '--dtypes', 'float32', '--seconds', '0.001', '--samples', '3', '--out', str(tmp_path),
        '--passes', 'forward', 'backward', 'forward+backward',
    ])  # fmt: skip
    report = Report.load(path)
    assert [comparison.case['bytes'] for comparison in report.comparisons] == [2 * 480, 3 * 480, 5 * 480]
    for comparison in report.comparisons:
        assert list(comparison.measured) == list(map_norm.CONTENDERS)
        assert all(timing.facts['relative_error'] < 1e-5 for timing in comparison.timings.values())
    with pytest.raises(SystemExit):
        map_norm.main(['--shapes', '2x3x4'])


def test_the_profile_has_every_case(tmp_path, monkeypatch):
    monkeypatch.setitem(SparXMamba.ARCHITECTURES, 'tiny', SparXMamba(SMALL_ARCH).arch)
    path = network_profile.main([
        '--image', '32', '--batch', '2', '--detection-image', '32x64', '--detection-batch', '1', '--precision', 'fp32',
        '--most', '5', '--out', str(tmp_path),
    ])  # fmt: skip
    cases = json.loads(path.read_text())['cases']
    assert list(cases) == ['inference, 32x32, batch 2', 'training, 32x32, batch 2', 'backbone, 32x64, batch 1']
    for case in cases.values():
        times = [row['ms'] for row in case['kernels']]
        assert times == sorted(times, reverse=True)
        assert sum(times) == pytest.approx(case['busy_ms'])
        assert any('cross_selective_scan' in row['name'] for row in case['kernels'])
    text = path.with_suffix('.md').read_text()
    assert text.count('## ') == 3
    assert 'busy' in text
