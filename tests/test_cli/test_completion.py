"""Completion by the shell, in bash as users have it."""

import shutil
import subprocess

import pytest

from mmsparx.__main__ import main
from mmsparx.zoo import list_configs

pytest.importorskip('shtab', reason='it writes the scripts')
NAMES = [config.name for config in list_configs()]


@pytest.fixture
def script(capsys):
    def script(shell):
        assert main(['completion', shell]) == 0
        return capsys.readouterr().out

    return script


@pytest.fixture
def complete(script, tmp_path):
    """`complete('mmsparx', 'tr')`: completions of the last word by TAB, in a folder with `own.py` and `b.pth`."""
    if not shutil.which('bash'):
        pytest.skip('needs bash')
    (tmp_path / 'completion').write_text(script('bash'))
    folder = tmp_path / 'folder'
    folder.mkdir()
    for name in ('own.py', 'b.pth'):
        (folder / name).touch()

    def complete(*words):
        code = (
            f'source {tmp_path}/completion; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
            '$(complete -p mmsparx | sed "s/.*-F \\([^ ]*\\).*/\\1/"); printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ['bash', '--norc', '-c', code, 'bash', *words], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    return complete


def test_commands_and_options(complete):
    assert complete('mmsparx', 'tr') == ['train']
    assert complete('mmsparx', 'train', '--no') == ['--no-pretrained']
    assert complete('mmsparx', 'publish', 'a', '--weights', 'e') == ['ema']


def test_names_of_shipped_configs(complete):
    expected = [name for name in NAMES if name.startswith('mask_rcnn_sp')]
    assert complete('mmsparx', 'export-config', 'mask_rcnn_sp') == expected
    assert complete('mmsparx', 'export-config', 'ow') == []
    for command in ('train', 'test'):
        assert complete('mmsparx', command, 'mask_rcnn_sp') == expected
        assert complete('mmsparx', command, 'ow') == ['own.py']


def test_files(complete):
    assert complete('mmsparx', 'test', 'own.py', 'b') == ['b.pth']
    assert complete('mmsparx', 'train', 'own.py', '--resume', 'b') == ['b.pth']


@pytest.mark.parametrize('shell', ['zsh', 'tcsh'])
def test_other_shells(shell, script):
    """The scripts contain the names and the commands that take them."""
    text = script(shell)
    assert all(name in text for name in NAMES)
    assert 'export-config' in text
