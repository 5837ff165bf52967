"""`gpu.sh` on a CPU, where it makes the same steps on small sizes, and `sanitize`, of which one stage consists."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmengine')
pytest.importorskip('timm')
from benchmarks import command_line, cross_selective_scan, network, sanitize, selective_scan
from mmsparx.ops.selective_scan import backends, reference

ROOT = Path(__file__).parents[2]
SMALL = ['--lengths', '1', '5', '--states', '1', '2', '--maps', '2x3']
needs_bash = pytest.mark.skipif(shutil.which('bash') is None, reason='there is no bash')


def gpu_sh(*stages, **variables):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith('PYTEST_')}
    environment = {**inherited, 'PYTHON': sys.executable, 'DEVICE': 'cpu', **variables}
    return subprocess.run(
        ['bash', 'benchmarks/gpu.sh', *stages], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@needs_bash
def test_a_stage(tmp_path):
    done = gpu_sh('sanitize', OUT=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    log = (tmp_path / 'scans.log').read_text().splitlines()
    assert len(log) == 2 * 2 * 4 + 2 * 4  # and a map
    assert all(line.startswith('right: ') for line in log)
    assert 'all done' in done.stdout


@needs_bash
def test_a_failure_is_told_at_the_end_and_the_next_step_made(tmp_path):
    done = gpu_sh('sanitize', 'peers', PYTHON='false', OUT=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip() == f'failed: scans peers_float32; logs in {tmp_path}'
    assert done.stdout.count('FAILED after') == 2


@needs_bash
def test_a_build_can_be_left_out(tmp_path):
    done = gpu_sh('build', MMSPARX_SKIP_BUILD='1', OUT=str(tmp_path))
    assert done.returncode == 0
    assert 'left out' in done.stdout


@needs_bash
def test_bad_calls_say_what_is_wrong(tmp_path):
    unknown = gpu_sh('tests', 'speed', OUT=str(tmp_path / 'out'))
    assert unknown.returncode == 2
    assert (
        "expected stages of: build tests sanitize op maps peers network compiled-bf16 compiled-tf32; got 'speed'"
        in (unknown.stderr)
    )
    without = gpu_sh('op', DEVICE='cuda', PYTHON='false', OUT=str(tmp_path / 'out'))
    assert without.returncode == 2
    assert 'sees no GPU; DEVICE=cpu tries the steps on a CPU' in without.stderr
    assert not (tmp_path / 'out').exists()


@needs_bash
def test_what_is_run_on_a_gpu_is_understood(tmp_path, monkeypatch):
    """All stages with a Python that writes down what it is asked for; the benchmarks then read their options."""
    asked = tmp_path / 'asked'
    for name in ('python', 'compute-sanitizer'):
        (tmp_path / name).write_text(f'''#!/bin/sh
            if [ "$1" = -c ]; then echo 9.0; exit; fi
            echo "{name} $* ($FORCE_CUDA $TORCH_CUDA_ARCH_LIST)" >> '{asked}'
        ''')
        (tmp_path / name).chmod(0o755)
    path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
    variables = dict(PYTHON=str(tmp_path / 'python'), DEVICE='cuda', OUT=str(tmp_path / 'out'), PATH=path)
    done = gpu_sh(**variables, FORCE_CUDA='', TORCH_CUDA_ARCH_LIST='', MMSPARX_SKIP_BUILD='')
    assert done.returncode == 0, done.stdout + done.stderr
    commands = [line.rpartition(' (')[0].split() for line in asked.read_text().splitlines()]
    assert 'python setup.py build_ext --inplace (1 9.0)' in asked.read_text()
    assert sum(command[1:3] == ['-m', 'pytest'] for command in commands) == 1
    sanitized = [command[2] for command in commands if command[0] == 'compute-sanitizer']
    assert sanitized == ['memcheck', 'racecheck']

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(command_line, 'run', lambda name, args, *_: ran.append((name, args)))
    ran = []
    measured = {module.__name__: module for module in (selective_scan, cross_selective_scan, network)}
    for command in commands:
        if command[1] == '-m' and command[2] in measured:
            measured[command[2]].main(command[3:])
    names = [args.name for _, args in ran]
    assert len(set(names)) == len(names) == 12
    scans = [args for name, args in ran if name == 'selective_scan' and args.contenders]
    assert {(args.dtype, batch, which) for args in scans for batch in args.batches for which in args.passes} == {
        (dtype, batch, which)
        for dtype in ('float32', 'bfloat16')
        for batch in (1, 8, 128)
        for which in ('forward', 'backward')
    }
    maps = [args for name, args in ran if name == 'cross_selective_scan']
    cases = {(args.dtype, image, batch) for args in maps for image in args.images for batch in args.batches}
    sizes = [((224, 224), 1), ((224, 224), 128), ((800, 1344), 2)]
    assert cases == {(dtype, *size) for dtype in ('float32', 'bfloat16') for size in sizes}
    assert all({'native', 'native-plain'} < set(args.contenders) for args in maps)
    networks = [args for name, args in ran if name == 'network']
    assert {(args.precision, args.compile, mode) for args in networks for mode in args.modes} == {
        (precision, compiled, mode)
        for precision in ('bf16', 'tf32')
        for compiled in (None, 'default')
        for mode in ('inference', 'training')
    }


def test_right_scans(capsys):
    assert sanitize.main(['--backend', 'reference', *SMALL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 2 * 4 + 2 * 4
    assert all(line.startswith('right: ') for line in lines)


@pytest.mark.parametrize('wrong', [lambda x: x * 1.01, lambda x: x + torch.nan])
def test_wrong_scans(wrong, monkeypatch, capsys):
    def backward(*arguments):
        du, *others = reference.backward(*arguments)
        return wrong(du), *others

    planted = backends.Backend('planted', reference.forward, backward)
    monkeypatch.setattr(backends, 'BACKENDS', [*backends.BACKENDS, planted])
    sizes = ['--lengths', '5', '--states', '1', '--maps', '2x3', '--types', 'float32']
    assert sanitize.main(['--backend', 'planted', *sizes]) == 1
    said = capsys.readouterr()
    sequence, of_map = said.out.splitlines()
    assert sequence.startswith('WRONG: 2 x 12 x 5, N 1, float32: error / tolerance: u ')
    assert of_map.startswith('WRONG: maps 2 x 12 x 2 x 3, N 1, float32: error / tolerance: x ')
    assert said.err == '2 cases are wrong\n'


def test_an_unknown_backend(capsys):
    with pytest.raises(SystemExit):
        sanitize.main(['--backend', 'fast'])
    assert "unknown selective-scan backend 'fast', asked for by --backend" in capsys.readouterr().err
