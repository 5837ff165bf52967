"""The source distribution and the wheel, built without network, with and without torch."""

import contextlib
import ctypes
import email
import importlib.metadata
import importlib.util
import json
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
from helpers.fresh import FreshEnvironment, installed_wheel, site_packages

import mmsparx

ROOT = Path(__file__).parents[1]
RECORD = 'mmsparx/_build.json'
INDEX = 'model-index.yml'
pytestmark = pytest.mark.skipif(not (ROOT / 'setup.py').is_file(), reason='needs the repository')

# The build that pip runs. If the second argument says so, it finds no torch.
BUILD = """
import sys
if sys.argv[2] == 'without torch':
    sys.modules['torch'] = None
from setuptools import build_meta
getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[3])
"""


@pytest.fixture(scope='module')
def isolated(tmp_path_factory):
    """A folder with only the packages that pyproject.toml requires for a build: pip's build isolation."""
    folder = tmp_path_factory.mktemp('isolated')
    for name in ('setuptools', 'wheel', 'packaging'):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            distribution = importlib.metadata.distribution(name)
            for top in {path.parts[0] for path in distribution.files or []} - {'..', '__pycache__'}:
                (folder / top).symlink_to(distribution.locate_file(top))
    if not (folder / 'setuptools').is_dir():
        pytest.skip('needs a setuptools that pip has installed')
    return folder


def run_build(isolated, kind, source, target, torch='without torch', **variables):
    switches = ('MMSPARX_WITH_OPS', 'FORCE_CUDA', 'TORCH_CUDA_ARCH_LIST', 'CUDA_HOME', 'CUDA_PATH')
    environment = {key: value for key, value in os.environ.items() if key not in switches}
    environment |= {'PYTHONPATH': str(isolated), 'CUDA_VISIBLE_DEVICES': '', **variables}
    command = [sys.executable, '-S', '-c', BUILD, kind, torch, str(target)]
    return subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)


def build(isolated, kind, source, target, torch='without torch', **variables):
    done = run_build(isolated, kind, source, target, torch, **variables)
    assert done.returncode == 0, done.stderr
    return done


def read_wheel(folder):
    """(the name of the only wheel in a folder, its files' names and bytes)."""
    (archive,) = folder.glob('*.whl')
    with zipfile.ZipFile(archive) as wheel:
        return archive.name, {name: wheel.read(name) for name in wheel.namelist()}


@pytest.fixture(scope='module')
def built(isolated, tmp_path_factory):
    """(names and bytes of the sdist's files, the same of the wheel that is built from it)."""
    folder = tmp_path_factory.mktemp('packaging')
    source = folder / 'source'
    # The build runs in a copy, since it writes into its folder; tests are copied to check that they are left out.
    ignored = shutil.ignore_patterns('.*', '__pycache__', '*.egg-info', 'build', 'dist', 'data', 'work_dirs')
    shutil.copytree(ROOT, source, ignore=ignored)
    build(isolated, 'sdist', source, folder)
    (archive,) = folder.glob('*.tar.gz')
    with tarfile.open(archive) as tar:
        sdist = {m.name.partition('/')[2]: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}
    unpacked = folder / 'unpacked'
    for name, content in sdist.items():
        (unpacked / name).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / name).write_bytes(content)
    build(isolated, 'wheel', unpacked, folder)
    name, wheel = read_wheel(folder)
    assert name == f'mmsparx-{mmsparx.__version__}-py3-none-any.whl'
    return sdist, wheel


@pytest.fixture(scope='module')
def metadata(built):
    (content,) = [content for name, content in built[1].items() if name.endswith('.dist-info/METADATA')]
    return email.message_from_bytes(content)


def shipped(folder):
    """Files of a folder of the repository that belong in a distribution."""
    paths = {path.relative_to(ROOT) for path in (ROOT / folder).rglob('*') if path.is_file()}
    built_here = {path for path in paths if path.name == '_build.json' or path.suffix == '.so'}
    return {path.as_posix() for path in paths - built_here if '__pycache__' not in path.parts}


def test_the_sdist_has_what_a_build_needs(built):
    expected = shipped('mmsparx') | shipped('configs') | shipped('csrc')
    expected |= {'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'CHANGELOG.md', 'CITATION.cff'}
    expected |= {'constraints.txt', INDEX}
    assert expected <= set(built[0])
    assert not [name for name in built[0] if name.endswith(('.so', '_build.json'))]


def test_the_wheel_has_the_package_and_the_configs_and_nothing_else(built):
    files = {name for name in built[1] if '.dist-info/' not in name}
    beside_the_package = {f'mmsparx/.mim/{name}' for name in shipped('configs') | {INDEX}}
    assert files == shipped('mmsparx') | beside_the_package | {RECORD}
    assert 'mmsparx/py.typed' in files
    assert any(name.endswith('/LICENSE') for name in built[1])


def test_the_index_leads_to_the_configs(built):
    """In the wheel, the index leads to the metafiles beside it, and these to each model's config."""
    yaml = pytest.importorskip('yaml', reason='the index is in YAML')
    folder = 'mmsparx/.mim'
    metafiles = yaml.safe_load(built[1][f'{folder}/{INDEX}'])['Import']
    models = [model for name in metafiles for model in yaml.safe_load(built[1][f'{folder}/{name}'])['Models']]
    assert len(models) > len(metafiles) > 2
    assert not [model['Config'] for model in models if f'{folder}/{model["Config"]}' not in built[1]]


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
    assert 'License :: OSI Approved :: Apache Software License' in metadata.get_all('Classifier')
    assert any(url.startswith('Paper, https://arxiv.org/') for url in metadata.get_all('Project-URL'))


def test_the_version_is_the_same_everywhere():
    """`mmsparx/version.py` is its source; the changelog's newest release and the citation repeat it."""
    changelog = (ROOT / 'CHANGELOG.md').read_text()
    releases = re.findall(r'^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$', changelog, re.MULTILINE)
    citation = dict(re.findall(r'^(version|date-released): (\S+)$', (ROOT / 'CITATION.cff').read_text(), re.MULTILINE))
    assert releases[0] == (mmsparx.__version__, citation['date-released'])
    assert citation['version'] == mmsparx.__version__


def test_only_torch_is_required(metadata):
    """A requirement on mmengine would install it over onedl-mmengine, which has the same import name."""
    required = metadata.get_all('Requires-Dist')
    assert [r for r in required if 'extra ==' not in r] == ['torch>=2.4']
    extras = {extra: [r for r in required if f'"{extra}"' in r] for extra in metadata.get_all('Provides-Extra')}
    assert {'mmengine', 'det', 'seg', 'cls', 'export', 'hub', 'demo', 'dev'} <= set(extras)
    for extra, library in {'det': 'mmdet', 'seg': 'mmsegmentation', 'cls': 'mmpretrain'}.items():
        assert any(r.startswith(library) for r in extras[extra])
        assert any(r.startswith('mmsparx[mmengine]') for r in extras[extra])


def test_the_tested_set_meets_the_requirements(metadata):
    """Every requirement of every extra, against installed and pinned versions."""
    packaging = pytest.importorskip('packaging.requirements')
    pins = dict(re.findall(r'^([\w.-]+)==([^;\s]+)', (ROOT / 'constraints.txt').read_text(), re.MULTILINE))
    for text in metadata.get_all('Requires-Dist'):
        requirement = packaging.Requirement(text)
        if requirement.name != 'mmsparx':
            assert requirement.specifier.contains(pins[requirement.name]), text


# A minimal source that shows the build's options: OpenMP, and a path of the machine.
SCAN = """
extern "C" const char* where() { return __FILE__; }
extern "C" int threads() {
  int count = 0;
#pragma omp parallel reduction(+ : count)
  count += 1;
  return count;
}
"""
COMPILER = os.getenv('CXX') or shutil.which('c++') or shutil.which('g++')
needs_compiler = pytest.mark.skipif(not COMPILER, reason='needs a C++ compiler')
needs_torch = pytest.mark.skipif(importlib.util.find_spec('torch') is None, reason='needs torch')


@pytest.fixture(scope='module')
def small_source(built, tmp_path_factory):
    """The sdist with a small source in place of the scan's, since the tests are of setup.py."""
    folder = tmp_path_factory.mktemp('a source')  # the path has a space, too
    for name, content in built[0].items():
        if not name.startswith('csrc/'):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    (folder / 'csrc/selective_scan/cpu').mkdir(parents=True)
    (folder / 'csrc/selective_scan/cpu/scan.cpp').write_text(SCAN)
    (folder / 'csrc/selective_scan/cuda').mkdir()
    (folder / 'csrc/selective_scan/cuda/scan.cu').write_text('__global__ void scan() {}\n')
    return folder


@pytest.fixture
def copy(small_source, tmp_path):
    return shutil.copytree(small_source, tmp_path / 'source', ignore=shutil.ignore_patterns('build', '*.egg-info'))


@pytest.fixture(scope='module')
def compiled(isolated, small_source, tmp_path_factory):
    """(the wheel's name, its files, the build's output)."""
    folder = tmp_path_factory.mktemp('compiled')
    done = build(isolated, 'wheel', small_source, folder, 'with torch', MMSPARX_WITH_OPS='1')
    return *read_wheel(folder), done.stderr


class TestTheCompiledScan:
    def failing_compiler(self, folder):
        path = folder / 'failing-cxx'
        path.write_text('#!/bin/sh\necho starting\necho "cc1plus: error: no licence in /opt/vendor/key" >&2\nexit 1\n')
        path.chmod(0o755)
        return str(path)

    @needs_compiler
    @needs_torch
    def test_a_wheel_with_it(self, compiled):
        import torch

        name, files, printed = compiled
        assert '-cp310-abi3-' in name
        record = json.loads(files[RECORD])
        assert record['built'] is True
        assert record['reason'] is record['log'] is record['cuda'] is record['archs'] is None
        assert record['ort_reason'] == 'csrc/ort holds no C++ sources. Take all of the source, then install again'
        assert record['torch'] == torch.__version__
        stable = tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 10)
        assert record['torch_from'] == ('2.10' if stable else None)
        assert record['version'] == mmsparx.__version__
        assert re.fullmatch(r'(g|clang)\+\+ \d+\.\d+(\.\d+)?|MSVC', record['compiler'])
        assert record['flags'][:2] == ['-O3', '-g0']
        no_gpu = 'torch saw no GPU when mmsparx was built. Set FORCE_CUDA=1, then install again'
        assert record['cuda_reason'].startswith(no_gpu if torch.version.cuda else 'torch ')
        versions = '2.10 and later' if stable else torch.__version__
        assert f'mmsparx: compiled the operators with {record["compiler"]} for torch {versions};' in printed
        assert not [name for name in files if name.startswith('csrc')]

    @needs_compiler
    @needs_torch
    def test_its_library(self, compiled, small_source):
        """It works in every Python, uses torch's OpenMP, and has no path of the machine that built it."""
        (library,) = (content for name, content in compiled[1].items() if name.startswith('mmsparx/_C'))
        assert b'csrc/selective_scan/cpu/scan.cpp' in library
        assert b'libtorch_python' not in library
        if '-fopenmp' in json.loads(compiled[1][RECORD])['flags']:
            assert b'GOMP_parallel' in library
            assert b'libgomp' not in library
        for path in (small_source, ROOT, Path.home(), Path(sys.prefix), Path(sys.base_prefix) / 'lib'):
            for name, content in compiled[1].items():
                assert str(path).encode() not in content, (path, name)

    @needs_compiler
    @needs_torch
    def test_with_a_compiler_of_several_words(self, isolated, copy, compiled, tmp_path):
        """Such commands are "ccache g++", and commands that break unless they are quoted again."""
        blank = tmp_path / 'a folder'
        blank.mkdir()
        compiler = f"env LC_ALL=C 'WHAT=two words' {COMPILER} -DTHREE='words;'"
        variables = dict(MMSPARX_WITH_OPS='1', CXX=compiler, TMPDIR=str(blank))
        build(isolated, 'wheel', copy, tmp_path, 'with torch', **variables)
        name, files = read_wheel(tmp_path)
        records = [json.loads(content[RECORD]) for content in (files, compiled[1])]
        assert records[0] == records[1]
        assert name == compiled[0]
        assert not list(blank.iterdir())

    @needs_compiler
    @needs_torch
    def test_a_library_of_an_earlier_build_is_left_out(self, isolated, small_source, compiled, tmp_path):
        assert list(small_source.glob('build/lib*/mmsparx/_C*'))
        build(isolated, 'wheel', small_source, tmp_path, MMSPARX_WITH_OPS='0')
        name, files = read_wheel(tmp_path)
        assert name.endswith('-py3-none-any.whl')
        assert not [name for name in files if name.startswith('mmsparx/_C')]

    @needs_compiler
    @needs_torch
    def test_an_editable_installation_of_a_source_that_does_not_compile(self, isolated, copy, tmp_path):
        """It succeeds, reports the error, and removes the library of an earlier installation."""
        (copy / 'csrc/selective_scan/cpu/scan.cpp').write_text('#error "too old"\n')
        stale = copy / 'mmsparx/_C.abi3.so'
        stale.touch()
        done = build(isolated, 'editable', copy, tmp_path, 'with torch')
        record = json.loads((copy / RECORD).read_text())
        assert record['built'] is False
        assert re.search('failed: csrc/selective_scan/cpu/scan.cpp:1:2: error: .*too old', record['reason'])
        assert f'no compiled operators: {record["reason"]}' in done.stderr
        assert any('too old' in line for line in record['log'])
        assert str(tmp_path) not in json.dumps(record)
        assert not stale.exists()

    @needs_compiler
    @needs_torch
    def test_the_library_for_onnxruntime(self, isolated, copy, tmp_path):
        """It lies beside that of the operators, which is built even if this one does not compile."""
        source, stale = copy / 'csrc/ort/library.cpp', copy / 'mmsparx/libmmsparx_ort.so'
        source.parent.mkdir()
        source.write_text('extern "C" __attribute__((visibility("default"))) int answer() { return 42; }\n')
        build(isolated, 'wheel', copy, tmp_path, 'with torch')
        files = read_wheel(tmp_path)[1]
        assert json.loads(files[RECORD])['ort_reason'] is None
        library = tmp_path / 'library.so'
        library.write_bytes(files['mmsparx/libmmsparx_ort.so'])
        assert ctypes.CDLL(str(library)).answer() == 42
        source.write_text('#error "too old"\n')
        stale.touch()
        done = build(isolated, 'editable', copy, tmp_path, 'with torch')
        record = json.loads((copy / RECORD).read_text())
        assert record['built'] is True
        assert re.search('failed: csrc/ort/library.cpp:1:2: error: .*too old', record['ort_reason'])
        assert f'; no library for onnxruntime: {record["ort_reason"]}' in done.stderr
        assert not stale.exists()
        assert list((copy / 'mmsparx').glob('_C*.so'))

    def test_not_where_it_is_switched_off(self, isolated, copy, tmp_path):
        reason = self.reason(isolated, copy, tmp_path, MMSPARX_WITH_OPS='0')
        assert reason.startswith('MMSPARX_WITH_OPS=0 has switched it off. Unset that, then install again')

    def test_not_without_a_compiler(self, isolated, copy, tmp_path, monkeypatch):
        monkeypatch.delenv('CXX', raising=False)
        reason = self.reason(isolated, copy, tmp_path, PATH=str(tmp_path))
        assert reason.startswith('no C++ compiler: expected c++, g++ or clang++ on PATH, found none. Install one')

    def test_not_with_a_compiler_that_fails(self, isolated, copy, tmp_path):
        reason = self.reason(isolated, copy, tmp_path, CXX=self.failing_compiler(tmp_path))
        assert reason.startswith('the C++ compiler failing-cxx does not run: cc1plus: error: no licence in key. Fix it')

    @needs_compiler
    def test_not_without_torch(self, isolated, copy, tmp_path):
        reason = self.reason(isolated, copy, tmp_path)
        assert reason.startswith('torch could not be imported while mmsparx was built: ')
        assert reason.endswith('Install torch, then install from source, by uv with --no-build-isolation')

    def test_not_without_sources(self, isolated, copy, tmp_path):
        shutil.rmtree(copy / 'csrc')
        assert 'csrc holds no C++ sources' in self.reason(isolated, copy, tmp_path)

    def reason(self, isolated, source, folder, **variables):
        """Reason why a wheel has no compiled scan; the wheel is built anyway, for every platform."""
        build(isolated, 'wheel', source, folder, **variables)
        name, files = read_wheel(folder)
        assert name.endswith('-py3-none-any.whl')
        assert set(files) >= {'mmsparx/__init__.py', 'mmsparx/ops/__init__.py'}
        assert not [name for name in files if name.startswith('mmsparx/_C')]
        record = json.loads(files[RECORD])
        assert record['built'] is False
        return record['reason']

    @needs_compiler
    @needs_torch
    def test_the_printed_command_compiles_it(self, isolated, small_source, copy, tmp_path):
        """Installations from an archive, a wheel and a clone lack the scan, in an environment that begins empty."""
        from mmsparx.ops import native

        index = tmp_path / 'index'
        index.mkdir()
        for name in ('setuptools', 'wheel', 'packaging'):
            installed_wheel(index, name)
        build(isolated, 'sdist', small_source, tmp_path)
        build(isolated, 'wheel', small_source, tmp_path)
        fresh = FreshEnvironment(tmp_path / 'fresh', index, site_packages())
        (archive,), (wheel,) = tmp_path.glob('*.tar.gz'), tmp_path.glob('*.whl')
        for source, package, folder in (
            (archive, fresh.site / 'mmsparx', tmp_path),
            (wheel, fresh.site / 'mmsparx', small_source),
            (f'-e {copy}', copy / 'mmsparx', tmp_path),
        ):
            done = fresh.run(f'pip install --force-reinstall --no-deps {source}', MMSPARX_WITH_OPS='0')
            assert done.returncode == 0, done.stdout + done.stderr
            assert json.loads((package / '_build.json').read_text())['built'] is False
            done = fresh.run(native.rebuild(package), folder)
            assert done.returncode == 0, done.stdout + done.stderr
            assert json.loads((package / '_build.json').read_text())['built'] is True, done.stdout

    def test_an_installation_that_must_compile(self, isolated, copy, tmp_path):
        variables = dict(MMSPARX_WITH_OPS='1', CXX=self.failing_compiler(tmp_path))
        done = run_build(isolated, 'wheel', copy, tmp_path, **variables)
        assert done.returncode == 1
        assert 'MMSPARX_WITH_OPS=1, but no compiled operators: the C++ compiler' in done.stderr
        assert not list(tmp_path.glob('*.whl'))

    def test_an_unknown_switch(self, isolated, copy, tmp_path):
        done = run_build(isolated, 'wheel', copy, tmp_path, MMSPARX_WITH_OPS='yes')
        assert done.returncode == 1
        assert "MMSPARX_WITH_OPS: expected 0, 1 or unset, got 'yes'" in done.stderr


@needs_torch
def test_the_statements_of_the_workflow_hold():
    """Those by which continuous integration looks at an installation with compiled operators."""
    pytest.importorskip('mmengine')
    from mmsparx.ops import available_backends

    if available_backends()['native'] != 'available':
        pytest.skip('needs the compiled operators')
    statements = re.findall(r"python -c '(.+)'$", (ROOT / '.github/workflows/ci.yml').read_text(), re.MULTILINE)
    assert len(statements) == 2
    subprocess.run([sys.executable, '-c', '\n'.join(statements)], check=True)


# A CUDA toolkit whose compiler reports its version, and fails.
NVCC = """#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release {release}, V{release}.99" ;;
--list-gpu-arch) echo "compute_75\ncompute_90" ;;
--dryrun) echo "#\\$ TOP=/nowhere" ;;
*) echo "scan.cu(1): error: no kernels today" >&2; exit 1 ;;
esac
"""


@needs_compiler
@needs_torch
class TestTheCudaKernels:
    @pytest.fixture
    def release(self):
        import torch

        if torch.version.cuda is None:
            pytest.skip('this torch is a build without CUDA')
        return torch.version.cuda

    @pytest.fixture
    def toolkit(self, tmp_path):
        def toolkit(release):
            nvcc = tmp_path / 'toolkit/bin/nvcc'
            nvcc.parent.mkdir(parents=True)
            nvcc.write_text(NVCC.format(release=release))
            nvcc.chmod(0o755)
            return str(tmp_path / 'toolkit')

        return toolkit

    @pytest.fixture
    def nvcc(self, release):
        if shutil.which('nvcc') is None:
            pytest.skip('no nvcc on PATH')
        said = subprocess.run(['nvcc', '--version'], capture_output=True, text=True, check=True).stdout
        if f'release {release.split(".")[0]}.' not in said:
            pytest.skip(f'the nvcc on PATH is not of the CUDA that torch is built for, {release}')

    def reason(self, isolated, source, folder, **variables):
        """Reason why there are no CUDA kernels; the rest is compiled, and the build reports both."""
        done = build(isolated, 'wheel', source, folder, 'with torch', FORCE_CUDA='1', **variables)
        name, files = read_wheel(folder)
        assert '-cp310-abi3-' in name
        record = json.loads(files[RECORD])
        assert record['built'] is True
        assert record['cuda'] is record['archs'] is None
        assert f'and not for GPUs: {record["cuda_reason"]}' in done.stderr
        assert str(folder) not in record['cuda_reason']
        return record['cuda_reason']

    def test_not_without_nvcc(self, isolated, copy, tmp_path, release):
        reason = self.reason(isolated, copy, tmp_path, CUDA_HOME=str(tmp_path))
        assert reason.startswith(
            'no CUDA compiler: expected nvcc in the bin folder of CUDA_HOME or, without that, on PATH; found none'
        )
        assert f'Install the CUDA {release.split(".")[0]} toolkit, then install again' in reason

    def test_not_with_the_nvcc_of_another_cuda(self, isolated, copy, tmp_path, release, toolkit):
        home = toolkit('9.1')
        reason = self.reason(isolated, copy, tmp_path, CUDA_HOME=home)
        major = release.split('.')[0]
        assert reason.startswith(f'expected an nvcc of CUDA {major} for torch ')
        assert f"got 'release 9.1'. Set CUDA_HOME to the folder of a CUDA {major} toolkit, then install" in reason

        done = run_build(
            isolated, 'wheel', copy, tmp_path, 'with torch', FORCE_CUDA='1', MMSPARX_WITH_OPS='1', CUDA_HOME=home
        )
        assert done.returncode == 1
        assert f'MMSPARX_WITH_OPS=1, but no compiled operators: {reason[:60]}' in done.stderr

    def test_not_with_an_nvcc_that_fails(self, isolated, copy, tmp_path, release, toolkit):
        reason = self.reason(isolated, copy, tmp_path, CUDA_HOME=toolkit(release))
        assert re.search(r'and nvcc failed: scan.cu\(1\): error: no kernels today. Fix that, then install', reason)

    @pytest.mark.usefixtures('nvcc')
    def test_with_a_compiler_of_several_words(self, isolated, copy, tmp_path, release):
        """torch takes them for one program in two more places than without CUDA."""
        variables = dict(FORCE_CUDA='1', MMSPARX_WITH_OPS='1', TORCH_CUDA_ARCH_LIST='8.0;9.0+PTX')
        build(isolated, 'wheel', copy, tmp_path, 'with torch', CXX=f'env LC_ALL=C {COMPILER}', **variables)
        record = json.loads(read_wheel(tmp_path)[1][RECORD])
        assert (record['cuda'], record['archs']) == (release, ['8.0', '9.0+PTX'])
        assert record['torch_from'] is None

    def test_not_with_an_nvcc_that_cannot_be_run(self, isolated, copy, tmp_path, release, toolkit):
        home = toolkit(release)
        Path(home, 'bin/nvcc').chmod(0o644)
        assert 'Permission denied' in self.reason(isolated, copy, tmp_path, CUDA_HOME=home)

    @pytest.mark.usefixtures('nvcc')
    @pytest.mark.slow  # nvcc takes five minutes; `test_cuda_kernels` compiles three of the four files
    def test_they_compile_link_and_load(self, isolated, built, tmp_path, release):
        """The build by setup.py, with or without a GPU, except for the CPU kernels."""
        source = tmp_path / 'source'
        for name, content in built[0].items():
            if '/cpu/' not in name:
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                (source / name).write_bytes(content)
        variables = dict(FORCE_CUDA='1', MMSPARX_WITH_OPS='1', TORCH_CUDA_ARCH_LIST='9.0')
        build(isolated, 'wheel', source, tmp_path, 'with torch', **variables)
        _, files = read_wheel(tmp_path)
        assert json.loads(files[RECORD])['cuda'] == release
        (library,) = (name for name in files if name.startswith('mmsparx/_C'))
        (tmp_path / 'kernels.so').write_bytes(files[library])
        # The library is loaded in another process, since this one has the operators already.
        code = (
            f'import torch; torch.ops.load_library({str(tmp_path / "kernels.so")!r}); '
            'names = [f"{kind}selective_scan_{way}_native" for kind in ("", "map_") for way in ("fwd", "bwd")]; '
            'print([torch._C._dispatch_has_kernel_for_dispatch_key(f"mmsparx::{name}", "CUDA") for name in names])'
        )
        done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
        assert done.stdout == '[True, True, True, True]\n'


class TestMessages:
    @pytest.fixture
    def setup(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        return runpy.run_path(str(ROOT / 'setup.py'), run_name='setup')

    @pytest.mark.parametrize(
        ('architectures', 'flags'),
        [
            (['8.0'], ['arch=compute_80,code=sm_80']),
            (
                ['9.0a', '12.1+PTX'],
                ['arch=compute_90a,code=sm_90a', *(f'arch=compute_121,code={k}_121' for k in ('sm', 'compute'))],
            ),
            (['8.0', 'Hopper'], []),
        ],
    )
    def test_architectures(self, setup, architectures, flags):
        assert setup['get_architecture_flags'](architectures) == [f'-gencode={flag}' for flag in flags]

    @pytest.mark.parametrize(
        ('text', 'expected'),
        [
            ('{cwd}/csrc/cpu/scan.cpp:3:10: fatal error', 'csrc/cpu/scan.cpp:3:10: fatal error'),
            ('/a/bin/c++ -I/a/venv/lib/python3.11/site-packages/torch/include', 'c++ -Itorch/include'),
            ("command '/a/bin/g++' failed, -o=/x/y.o", "command 'g++' failed, -o=y.o"),
            ('see https://example.org/a/b, and/or csrc/a/b', 'see https://example.org/a/b, and/or csrc/a/b'),
        ],
    )
    def test_no_paths_of_this_machine(self, setup, tmp_path, text, expected):
        assert setup['scrub'](text.format(cwd=tmp_path)) == expected

    @pytest.mark.parametrize(
        ('output', 'expected'),
        [
            ('[1/2] c++ -Werror -c a.cpp\na.cpp:1:2: error: no\na.cpp:9: error: more', 'a.cpp:1:2: error: no'),
            ('ld: cannot find -lc10\ncollect2: error: ld returned 1', 'ld: cannot find -lc10'),
            ('starting\nout of luck\nninja: build stopped: subcommand failed.', 'it failed: out of luck'),
            ('', 'it failed'),
        ],
    )
    def test_the_first_error(self, setup, output, expected):
        assert setup['first_error'](output, 'it failed') == expected
