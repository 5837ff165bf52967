"""What is found on the machine: distributions, compilers, variables."""

import sys

import pytest

from mmsparx.doctor import environment, isolated
from mmsparx.doctor.clashes import find_clashes


@pytest.fixture(autouse=True)
def _nothing_imported(monkeypatch):
    monkeypatch.setattr(isolated, 'run', lambda calls: dict.fromkeys(calls, (None, 'ImportError: not tried')))
    for name in ('CUDA_HOME', 'CUDA_PATH', 'CXX', *environment.VARIABLES):
        monkeypatch.delenv(name, raising=False)


def command(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)
    return path


def test_distributions(tmp_path, monkeypatch):
    """As pip leaves them: the two families of OpenMMLab, in another spelling, and one that was cut off."""
    for name, version in {'mmengine': '0.10.7', 'onedl_mmengine': '0.10.12'}.items():
        folder = tmp_path / f'{name}-{version}.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
    (tmp_path / 'mmdet-3.3.0.dist-info').mkdir()
    monkeypatch.setattr('sys.path', [str(tmp_path)])
    env = environment.look()
    assert env.providers('mmengine') == ['mmengine', 'onedl-mmengine']
    assert env.providers('mmdet') == []
    (finding,) = [finding for finding in find_clashes(env) if finding.name == 'duplicates']
    assert finding.found == 'mmengine and onedl-mmengine overwrite each other: both bring mmengine'


def test_what_is_not_there_is_not_tried(tmp_path, monkeypatch):
    (tmp_path / 'mmdet').mkdir()
    (tmp_path / 'mmdet' / '__init__.py').touch()
    monkeypatch.setattr('sys.path', [str(tmp_path)])
    for module in ('torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'timm'):
        monkeypatch.delitem(sys.modules, module, raising=False)  # another test may have imported it
    assert list(environment.look().imports) == ['torch', 'mmsparx.ops', 'mmdet']


def test_the_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert environment.look().compiler is None
    command(tmp_path / 'c++', 'exit 1')
    command(tmp_path / 'g++', 'echo g++ 12.2.0; echo Copyright')
    assert environment.look().compiler == 'g++ 12.2.0'
    monkeypatch.setenv('CXX', f'{command(tmp_path / "mine", "echo $1 $2")} -m64')
    assert environment.look().compiler == '-m64 --version'


def test_nvcc(tmp_path, monkeypatch):
    text = 'echo Cuda compilation tools, release {0}, V{0}.93'
    command(tmp_path / 'path' / 'nvcc', text.format('13.0'))
    command(tmp_path / 'home' / 'bin' / 'nvcc', text.format('12.8'))
    monkeypatch.setenv('PATH', str(tmp_path / 'path'))
    assert environment.look().nvcc == '13.0'
    monkeypatch.setenv('CUDA_HOME', str(tmp_path / 'home'))
    assert environment.look().nvcc == '12.8'
    monkeypatch.setenv('CUDA_HOME', str(tmp_path / 'nothing'))
    assert environment.look().nvcc is None


def test_a_gpu_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    command(tmp_path / 'nvidia-smi', 'echo "GPU 0: NVIDIA H100 (UUID: GPU-0)"')
    assert environment.look().nvidia is True


def test_variables(monkeypatch):
    monkeypatch.setenv('MMSPARX_SCAN_BACKEND', 'native')
    assert environment.look().variables == {'MMSPARX_SCAN_BACKEND': 'native'}
