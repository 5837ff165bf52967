"""timm's scripts with the networks registered; in processes of their own where importing is tested."""

import runpy
import subprocess
import sys

import pytest


def python(*arguments, folder):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder)


def test_scripts_of_timm_find_the_networks(tmp_path):
    pytest.importorskip('timm', reason='its scripts import it')
    script = tmp_path / 'train.py'
    script.write_text('import sys, timm\nprint(__name__, timm.is_model(sys.argv[2]), sys.argv[1:])')
    ran = python('-m', 'mmsparx.timm', 'train.py', '--model', 'sparx_mamba_tiny', folder=tmp_path)
    assert ran.stdout == "__main__ True ['--model', 'sparx_mamba_tiny']\n", ran.stderr


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ([], r'usage: python -m mmsparx\.timm SCRIPT\.py'),
        (['nothere.py', '--model', 'x'], r"python -m mmsparx\.timm: no script 'nothere\.py' in "),
    ],
)
def test_without_a_script(arguments, said, monkeypatch):
    with pytest.raises(SystemExit, match=f'^{said}'):
        run_module(monkeypatch, *arguments)


def test_help(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        run_module(monkeypatch, '--help')
    assert not ended.value.code
    assert capsys.readouterr().out.startswith('usage: python -m mmsparx.timm SCRIPT.py [ARGUMENTS ...]\n')


def run_module(monkeypatch, *arguments):
    pytest.importorskip('timm', reason='mmsparx.timm imports it')
    monkeypatch.setattr(sys, 'argv', ['python', *arguments])
    runpy.run_module('mmsparx.timm', run_name='__main__')


def test_modules_beside_a_script_are_found(tmp_path):
    pytest.importorskip('timm', reason='mmsparx.timm imports it')
    (tmp_path / 'scripts').mkdir()
    (tmp_path / 'scripts/neighbour.py').write_text('NAME = "neighbour"')
    (tmp_path / 'scripts/script.py').write_text('import neighbour\nprint(neighbour.NAME)')
    ran = python('-m', 'mmsparx.timm', 'scripts/script.py', folder=tmp_path)
    assert ran.stdout == 'neighbour\n', ran.stderr


def test_models_do_not_import_timm(tmp_path):
    pytest.importorskip('mmengine', reason='mmsparx.models needs it')
    code = "import sys, mmsparx.models\nsys.exit(str({'timm', 'mmpretrain', 'mmsparx.timm'} & set(sys.modules)))"
    assert python('-c', code, folder=tmp_path).stderr == 'set()\n'
