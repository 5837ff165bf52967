"""What a user gets: the source distribution and the wheel, built without network and without torch."""

import email
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import mmsparx

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / 'setup.py').is_file(), reason='needs the repository')

# A build as pip runs it, where torch cannot be imported.
BUILD = """
import sys
sys.modules['torch'] = None
from setuptools import build_meta
getattr(build_meta, sys.argv[1])(sys.argv[2])
"""


def build(kind, source, target):
    environment = {key: value for key, value in os.environ.items() if key != 'MMSPARX_WITH_OPS'}
    done = subprocess.run(
        [sys.executable, '-c', BUILD, f'build_{kind}', str(target)],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """(names and bytes of the sdist's files, the same of the wheel that is built from it)."""
    folder = tmp_path_factory.mktemp('packaging')
    source = folder / 'source'
    # A copy, since a build writes into its folder; of tests as well, to see that they stay behind.
    ignored = shutil.ignore_patterns('.*', '__pycache__', '*.egg-info', 'build', 'dist', 'data', 'work_dirs')
    shutil.copytree(ROOT, source, ignore=ignored)
    build('sdist', source, folder)
    (archive,) = folder.glob('*.tar.gz')
    with tarfile.open(archive) as tar:
        sdist = {m.name.partition('/')[2]: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}
    unpacked = folder / 'unpacked'
    for name, content in sdist.items():
        (unpacked / name).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / name).write_bytes(content)
    build('wheel', unpacked, folder)
    (archive,) = folder.glob('*.whl')
    assert archive.name == f'mmsparx-{mmsparx.__version__}-py3-none-any.whl'
    with zipfile.ZipFile(archive) as wheel:
        return sdist, {name: wheel.read(name) for name in wheel.namelist()}


@pytest.fixture(scope='module')
def metadata(built):
    (content,) = [content for name, content in built[1].items() if name.endswith('.dist-info/METADATA')]
    return email.message_from_bytes(content)


def shipped(folder):
    """The files of a folder of the repository that belong into a distribution."""
    paths = (ROOT / folder).rglob('*')
    return {p.relative_to(ROOT).as_posix() for p in paths if p.is_file() and '__pycache__' not in p.parts}


def test_the_sdist_has_what_a_build_needs(built):
    expected = shipped('mmsparx') | shipped('configs') | shipped('csrc')
    expected |= {'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'CHANGELOG.md', 'constraints.txt'}
    assert expected <= set(built[0])


def test_the_wheel_has_the_package_and_the_configs_and_nothing_else(built):
    files = {name for name in built[1] if '.dist-info/' not in name}
    assert files == shipped('mmsparx') | {f'mmsparx/.mim/{name}' for name in shipped('configs')}
    assert 'mmsparx/py.typed' in files
    assert any(name.endswith('/LICENSE') for name in built[1])


def test_no_tests_and_no_path_of_this_machine(built):
    paths = [str(path).encode() for path in (ROOT, Path.home(), Path(sys.prefix))]
    for files in built:
        assert not [name for name in files if name.startswith(('tests', '.'))]
        for name, content in files.items():
            assert not [path for path in paths if path in content], name


def test_the_metadata(metadata):
    assert metadata['Name'] == 'mmsparx'
    assert metadata['Version'] == mmsparx.__version__
    assert metadata['Requires-Python'] == '>=3.10'
    assert metadata['License'] == 'Apache-2.0'


def test_only_torch_is_required(metadata):
    """A requirement on mmengine would install it over onedl-mmengine, which has its import name."""
    required = metadata.get_all('Requires-Dist')
    assert [r for r in required if 'extra ==' not in r] == ['torch>=2.4']
    extras = {extra: [r for r in required if f'"{extra}"' in r] for extra in metadata.get_all('Provides-Extra')}
    assert {'mmengine', 'det', 'seg', 'cls', 'dev'} <= set(extras)
    for extra, library in {'det': 'mmdet', 'seg': 'mmsegmentation', 'cls': 'mmpretrain'}.items():
        assert any(r.startswith(library) for r in extras[extra])
        assert any(r.startswith('mmsparx[mmengine]') for r in extras[extra])


def test_the_tested_set_meets_the_requirements(metadata):
    """Every requirement of every extra, against what is installed here and what is pinned."""
    packaging = pytest.importorskip('packaging.requirements')
    pins = dict(re.findall(r'^([\w.-]+)==([^;\s]+)', (ROOT / 'constraints.txt').read_text(), re.MULTILINE))
    for text in metadata.get_all('Requires-Dist'):
        requirement = packaging.Requirement(text)
        if requirement.name != 'mmsparx':
            assert requirement.specifier.contains(pins[requirement.name]), text


class TestExtensions:
    @pytest.fixture
    def setup(self, tmp_path, monkeypatch):
        """setup.py's names, in a folder with an empty csrc/selective_scan."""
        (tmp_path / 'csrc' / 'selective_scan' / 'cpu').mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        for name in ('MMSPARX_WITH_OPS', 'FORCE_CUDA'):
            monkeypatch.delenv(name, raising=False)
        return runpy.run_path(str(ROOT / 'setup.py'), run_name='setup')

    @pytest.fixture
    def source(self, setup, tmp_path):
        path = tmp_path / 'csrc' / 'selective_scan' / 'cpu' / 'scan.cpp'
        path.touch()
        return path.relative_to(tmp_path).as_posix()

    def test_none_without_sources(self, setup, monkeypatch):
        assert setup['get_extensions']() == []
        monkeypatch.setenv('MMSPARX_WITH_OPS', '1')
        with pytest.raises(SystemExit, match='holds no C\\+\\+ sources'):
            setup['get_extensions']()

    def test_sources_are_compiled(self, setup, source):
        pytest.importorskip('torch')
        (extension,) = setup['get_extensions']()
        assert extension.sources == [source]
        assert 'build_ext' in setup['get_commands']([extension])

    def test_switched_off(self, setup, source, monkeypatch):
        monkeypatch.setenv('MMSPARX_WITH_OPS', '0')
        assert setup['get_extensions']() == []
        assert 'build_ext' not in setup['get_commands']([])

    def test_an_unknown_switch(self, setup, monkeypatch):
        monkeypatch.setenv('MMSPARX_WITH_OPS', 'yes')
        with pytest.raises(SystemExit, match="expected 0, 1 or unset, got 'yes'"):
            setup['get_extensions']()

    def test_without_torch(self, setup, source, monkeypatch):
        monkeypatch.setitem(sys.modules, 'torch', None)
        assert setup['get_extensions']() == []
        monkeypatch.setenv('MMSPARX_WITH_OPS', '1')
        with pytest.raises(SystemExit, match='Install torch first'):
            setup['get_extensions']()
