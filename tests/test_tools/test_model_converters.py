"""`mmsparx convert` and `publish`, by their scripts; tests of mmsparx.weights.convert check their files."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.weights import assert_same_bits, published_classifier

TOOLS = Path(__file__).parents[2] / 'tools/model_converters'


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a converter in this process; returns its output, or stderr if it fails."""

    def call(name, *arguments, status=0):
        monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(TOOLS / f'{name}.py'), run_name='__main__')
        assert ended.value.code == status
        return capsys.readouterr()[bool(status)]

    return call


@pytest.fixture
def source(tmp_path):
    published = published_classifier()
    torch.save({'model': published, 'model_ema': {k: x + 1 for k, x in published.items()}}, tmp_path / 'source.pth')
    return tmp_path / 'source.pth'


def test_convert(call, source, tmp_path):
    there, back = tmp_path / 'ours.safetensors', tmp_path / 'back.pth'
    out = call('convert', source, there, '--to', 'ours', '--weights', 'raw')
    published = published_classifier()
    assert f'{there}: {len(published)} tensors\nleft out: model_ema\n' in out
    assert 'left out' not in call('convert', there, back, '--to', 'published')
    assert_same_bits(torch.load(back, weights_only=True)['state_dict'], published)
    said = call('convert', there, back, status=1)
    assert said == f'mmsparx: {back} exists already; --force (force=True) overwrites it\n'
    call('convert', there, back, '--force')
    assert 'backbone.stem.0.weight' in torch.load(back, weights_only=True)['state_dict']


def test_publish(call, source, tmp_path):
    out = call('publish', source, tmp_path / 'tiny.pth')
    path, digest = re.search(r'^(.+)\nSHA-256 ([0-9a-f]{64})$', out, re.MULTILINE).groups()
    assert Path(path).name.startswith('tiny-')
    assert digest.startswith(Path(path).stem.removeprefix('tiny-'))
    state = torch.load(path, weights_only=True)['state_dict']
    assert_same_bits(state, {k: x + 1 for k, x in published_classifier().items()})


@pytest.mark.parametrize('name', ['convert', 'publish'])
def test_help(name, call):
    out = call(name, '--help')
    assert f'usage: {name}.py' in out
    assert '{auto,ema,raw}' in out


def test_from_anywhere(source, tmp_path):
    """A user can call it in any folder."""
    command = [sys.executable, TOOLS / 'publish.py', source.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r'^source-[0-9a-f]{8,}\.pth\nSHA-256 ', done.stdout, re.MULTILINE)
