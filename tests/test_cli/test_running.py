"""Ends of commands: exit statuses, sentences for errors of the user, tracebacks for bugs, Ctrl-C."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmsparx.__main__ import main
from mmsparx.cli import running
from mmsparx.cli.running import Command, finish
from mmsparx.zoo import find_config


def end(run):
    return finish(argparse.Namespace(run=run))


@pytest.mark.parametrize(('returned', 'status'), [(None, 0), (0, 0), (1, 1)])
def test_the_return_value_is_the_exit_status(returned, status):
    assert end(lambda args: returned) == status


def raised_by(folder: Path, text: str):
    """A function that runs `text`, as a module in a folder."""
    path = folder / 'module.py'
    path.write_text(text)
    return lambda args: exec(compile(text, str(path), 'exec'), {})


@pytest.mark.parametrize('error', ['ValueError', 'TypeError', 'RuntimeError', 'FloatingPointError'])
def test_an_error_that_the_package_raises_is_a_sentence(error, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(running, 'PACKAGE', tmp_path)
    assert end(raised_by(tmp_path, f'raise {error}(\n    "expected a, got b. "\n    "Write a"\n)')) == 1
    assert capsys.readouterr().err == 'mmsparx: expected a, got b. Write a\n'


@pytest.mark.parametrize('text', ['int("a")', '[].pop()', 'x = 1 / 0'])
def test_an_error_that_nobody_has_foreseen_keeps_its_traceback(text, tmp_path, monkeypatch):
    """The same holds for errors in the package that no `raise` statement raised."""
    monkeypatch.setattr(running, 'PACKAGE', tmp_path)
    with pytest.raises((ValueError, IndexError, ZeroDivisionError)):
        end(raised_by(tmp_path, text))


def test_an_error_of_another_package_keeps_its_traceback(tmp_path):
    with pytest.raises(ValueError, match='theirs'):
        end(raised_by(tmp_path, 'raise ValueError("theirs")'))


def test_errors_of_files_are_sentences(tmp_path, capsys):
    assert end(lambda args: (tmp_path / 'nothing').read_text()) == 1
    assert capsys.readouterr().err == f"mmsparx: No such file or directory: '{tmp_path}/nothing'\n"


@pytest.mark.parametrize(
    ('name', 'fix'),
    [('mmdet.apis', "pip install 'mmsparx[det]'"), ('shtab', 'pip install shtab'), ('mmcv', 'see the README')],
)
def test_a_missing_package_is_named_with_its_installation(name, fix, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    assert end(lambda args: __import__(name, fromlist=['x'])) == 1
    assert fix in capsys.readouterr().err


@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 86400 bytes"),
        RuntimeError('CUDA out of memory. Tried to allocate 20.00 MiB.\nMore'),
    ],
)
def test_lack_of_memory_is_a_sentence(error, capsys):
    def run(args):
        raise error

    assert end(run) == 1
    said = capsys.readouterr().err
    assert said.startswith('mmsparx: the memory does not suffice: ')
    assert said.count('\n') == 1


def test_a_config_that_is_to_blame(tmp_path, capsys):
    """The error is raised here or by mmengine."""
    pytest.importorskip('mmengine')
    from mmengine.registry import MODELS

    config = tmp_path / 'config.py'
    config.write_text('model = dict(\n')
    assert main(['train', str(config)]) == 1
    assert capsys.readouterr().err.startswith(f'mmsparx: {config}, or a base of it, is not Python: ')
    assert end(lambda args: MODELS.build(dict(type='Nothing'))) == 1
    assert capsys.readouterr().err.startswith('mmsparx: Nothing is not in the ')


def test_ctrl_c(capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    assert end(interrupted) == 130
    assert capsys.readouterr().err == 'interrupted\n'


@pytest.mark.parametrize('arguments', [[], ['trian'], ['train'], ['convert', 'a', 'b', '--to', 'theirs']])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert 'usage: ' in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [['train', 'nothing.py'], ['test', 'nothing.py', 'x.pth']])
def test_a_command_says_what_is_wrong(arguments, capsys):
    pytest.importorskip('mmengine')
    assert main(arguments) == 1
    caught = capsys.readouterr().err
    assert caught.startswith("mmsparx: no config file 'nothing.py' in ")
    assert caught.count('\n') == 1


def test_a_command_of_its_own(capsys):
    """A script of tools/ runs it so."""
    command = Command('say', 'say a word', lambda parser: parser.add_argument('word'), lambda args: len(args.word))
    assert command.main(['aa']) == 2
    with pytest.raises(SystemExit, match='0'):
        command.main(['--help'])
    assert 'Say a word.' in capsys.readouterr().out


def test_help_and_completion_import_little(tmp_path):
    """They work without torch and packages that need it; usage lines name `python -m mmsparx`."""
    code = (
        'import runpy, sys\n'
        "for name in ('torch', 'mmengine', 'numpy', 'mmcv'): sys.modules[name] = None\n"
        "sys.argv[1:] = ['train', '--help']\n"
        "runpy.run_module('mmsparx', run_name='__main__', alter_sys=True)\n"
    )
    environment = {**os.environ, 'PYTHONPATH': str(Path(running.__file__).parents[2])}
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith('usage: python -m mmsparx train ')


def test_ctrl_c_in_two_processes(tmp_path):
    """A terminal sends it to all processes: each reports it in one line, and no process is left."""
    pytest.importorskip('mmengine')
    from helpers.toy_run import CONFIG
    from mmengine.config import Config

    config = Config({**CONFIG, 'train_cfg': dict(by_epoch=False, max_iters=10**6)})
    config.default_hooks = dict(checkpoint=None, logger=dict(type='LoggerHook', interval=1))
    config.dump(tmp_path / 'config.py')
    root = Path(__file__).parents[2]
    command = [
        *(sys.executable, '-m', 'torch.distributed.run', '--standalone', '--local-addr=127.0.0.1'),
        *('--nproc-per-node=2', '-m', 'mmsparx', 'train', tmp_path / 'config.py', '--launcher', 'pytorch'),
    ]
    environment = {
        **os.environ,
        'PYTHONPATH': f'{root}:{root}/tests',
        'CUDA_VISIBLE_DEVICES': '-1',
        'OMP_NUM_THREADS': '1',
    }
    running = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said = []
    try:
        for line in running.stdout:
            said.append(line)
            if '(train)' in line:
                break
        os.killpg(running.pid, signal.SIGINT)
        rest, _ = running.communicate(timeout=60)
    except BaseException:
        os.killpg(running.pid, signal.SIGKILL)
        raise
    said = ''.join([*said, rest])
    assert running.returncode, said
    assert said.count('interrupted\n') == 2, said
    assert 'mmsparx/engine/training.py' not in said  # no traceback of a worker
    assert (tmp_path / 'work_dirs/config').is_dir()
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


def test_parsers_know_the_values_of_the_modules_behind_them():
    """Parsers repeat the values, so as to start without importing the modules."""
    pytest.importorskip('mmcv')
    from mmsparx.cli.parser import make_parser
    from mmsparx.engine.predictions import MAX_OVERLAP
    from mmsparx.weights.contents import COPIES

    parser = make_parser()
    assert parser.parse_args(['infer', 'a', 'b', 'c']).max_overlap == MAX_OVERLAP
    for copy in COPIES:
        assert parser.parse_args(['publish', 'a', '--weights', copy]).weights == copy
    assert find_config('mask_rcnn_sparx_t_1x').is_file()
