"""Compiles the operators if possible; all metadata is in pyproject.toml.

The package works without them, in pure torch, so an error here does not fail the installation
unless MMSPARX_WITH_OPS=1. mmsparx/_build.json records the build, or why there is none.

Environment variables:
    MMSPARX_WITH_OPS: 0 compiles nothing; 1 makes the installation fail if the operators cannot be
        compiled; unset, they are compiled if there are torch and a C++ compiler.
    CXX: Compiler, such as "ccache g++" (default: the first of c++, g++ and clang++ that is found).
    CFLAGS, CXXFLAGS: Further flags of the compiler.
    FORCE_CUDA: 1 compiles the CUDA kernels on a machine without a GPU as well; together with
        MMSPARX_WITH_OPS=1 the installation fails if they cannot be compiled.
    TORCH_CUDA_ARCH_LIST: GPU architectures to compile for, such as "8.0;9.0+PTX"; unset, those of the
        visible GPUs, with FORCE_CUDA=1 all that the compiler knows from 7.5 on.
    CUDA_HOME: CUDA toolkit (default: that of the nvcc on PATH; read by torch).
    MAX_JOBS: Number of compilers that run at once (read by torch).
"""

import contextlib
import ctypes
import hashlib
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

NAME = 'mmsparx._C'
SOURCES = Path('csrc')
# The library for onnxruntime: its own sources, and those whose objects it shares with the extension.
ORT_LIBRARY = 'libmmsparx_ort.so'
ORT_SOURCES = SOURCES / 'ort'
ORT_SHARED = ('csrc/common/cpu/instruction_sets.cpp', 'csrc/selective_scan/cpu/kernels_*.cpp')
RECORD = '_build.json'
STABLE_ABI = (2, 10)  # the first torch whose stable ABI is enough for csrc/common/torch_stable.h
AGAIN = 'then install again'  # mmsparx.ops knows the command, since it knows the source


class CannotCompileError(Exception):
    """The missing or failing part of a build, and how to fix it."""


def get_switch() -> str:
    asked = os.getenv('MMSPARX_WITH_OPS', '')
    if asked not in ('', '0', '1'):
        raise SystemExit(f'MMSPARX_WITH_OPS: expected 0, 1 or unset, got {asked!r}')
    return asked


def get_sources(cuda: bool = False) -> list[str]:
    """Sources of the CPU's extension, or the additional ones of the GPU's."""
    found = [path for suffix in ('cpp', 'cu') for path in SOURCES.rglob(f'*.{suffix}')]
    return sorted(
        path.as_posix() for path in found if ('cuda' in path.parts) == cuda and ORT_SOURCES not in path.parents
    )


def get_digest(root: Path = Path()) -> str:
    """SHA-256 of all sources, which tells whether a library belongs to the sources beside it."""
    digest = hashlib.sha256()
    for path in sorted((root / SOURCES).rglob('*')):
        if path.is_file():
            digest.update(path.relative_to(root).as_posix().encode() + b'\0' + path.read_bytes())
    return digest.hexdigest()


def scrub(text: str) -> str:
    """Remove paths of this machine: sources and packages become relative, other paths keep their last part."""
    text = text.replace(f'{Path.cwd()}/', '')
    start, part = r'(?:(?<![\w.:/])|(?<=-[IL]))/', r'[^\s/:;,\'"`()]+/'
    text = re.sub(f'{start}(?:{part})*?(?:site|dist)-packages/', '', text)
    return re.sub(f'{start}(?:{part})+', '', text)


def first_error(output: str, otherwise: str = '') -> str:
    """The line of a compiler's output with the error; if there is none, `otherwise` and the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith('ninja:')]
    errors = [line for line in lines if re.search(r'\berror:|undefined reference|cannot find|not found', line, re.I)]
    return errors[0] if errors else ': '.join(filter(None, [otherwise, *lines[-1:]])) or 'it said nothing'


def get_compiler() -> tuple[str, str]:
    """(command that compiles, name and version of the compiler)."""
    if os.name == 'nt':
        raise CannotCompileError("the kernels need GNU's vector extensions, which MSVC does not have")
    given = os.getenv('CXX')
    found = [name for name in ([given] if given else ['c++', 'g++', 'clang++']) if shutil.which(shlex.split(name)[0])]
    if not found:
        raise CannotCompileError(
            f'no C++ compiler: expected {f"CXX={given}" if given else "c++, g++ or clang++ on PATH"}, found none. '
            f'Install one (Debian, Ubuntu: apt-get install g++) or name one by CXX, {AGAIN}'
        )
    command = [*shlex.split(found[0]), '--version']
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace')
    if done.returncode:
        said = first_error(done.stdout)
        raise CannotCompileError(
            f'the C++ compiler {found[0]} does not run: {said}. Fix it or name another by CXX, {AGAIN}'
        )
    makers = {'Free Software Foundation': 'g++', 'clang': 'clang++'}
    name = next((name for maker, name in makers.items() if maker in done.stdout), Path(command[-2]).name)
    version = re.search(r'\d+(\.\d+)+', re.sub(r'\(.*?\)', '', done.stdout))
    return found[0], f'{name} {version[0]}' if version else name


@contextlib.contextmanager
def one_program(command: str, name: str):
    """The compiler as one program, if it is several words as in "ccache g++".

    torch takes the first of them for the compiler whose version it checks, the rest for flags, and gives nvcc all of
    them as the name of one program.
    """
    words = shlex.split(command)
    if len(words) == 1:
        yield command
        return
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, name)  # torch recognises the compiler by its name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        program.chmod(0o755)
        yield shlex.quote(str(program))


def import_torch():
    """Import torch, also under pip's build isolation, which hides the target environment.

    A build requirement would fetch the newest torch, and operators that are compiled for GPUs or against a torch before
    2.10 run only with the one that they are compiled against.
    """
    try:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module('torch')
        # pip hides it by PYTHONPATH, which -E ignores. The paths come last, so that the build's own setuptools stays
        # first.
        command = [sys.executable, '-E', '-c', 'import json, sys; print(json.dumps(sys.path[1:]))']
        paths = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        sys.path += [path for path in paths if path not in sys.path]
        return importlib.import_module('torch')
    except Exception as error:  # a broken torch may raise anything
        raise CannotCompileError(
            f'torch could not be imported while mmsparx was built: {error}. '
            'Install torch, then install from source, by uv with --no-build-isolation'
        ) from error


def get_nvcc(torch) -> str:
    """The CUDA compiler, if GPU kernels are to be compiled: a GPU is visible, or FORCE_CUDA=1."""
    from torch.utils import cpp_extension

    if torch.version.hip:
        raise CannotCompileError('torch is built for ROCm, and the kernels have been compiled for CUDA alone so far')
    if torch.version.cuda is None:
        raise CannotCompileError(f'torch {torch.__version__} is a build without CUDA')
    if os.getenv('FORCE_CUDA') != '1' and not torch.cuda.is_available():
        raise CannotCompileError(f'torch saw no GPU when mmsparx was built. Set FORCE_CUDA=1, {AGAIN}')
    major = torch.version.cuda.split('.')[0]
    home = cpp_extension.CUDA_HOME
    nvcc = Path(home, 'bin', 'nvcc') if home else None
    if nvcc is None or not nvcc.is_file():
        raise CannotCompileError(
            'no CUDA compiler: expected nvcc in the bin folder of CUDA_HOME or, without that, on PATH; found none. '
            f'Install the CUDA {major} toolkit, {AGAIN}'
        )
    said = subprocess.run([nvcc, '--version'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    release = re.search(r'release (\d+)\.\d+', said)
    if not release or release[1] != major:
        raise CannotCompileError(
            f'expected an nvcc of CUDA {major} for torch {torch.__version__}, got '
            f'{release[0] if release else first_error(said)!r}. '
            f'Set CUDA_HOME to the folder of a CUDA {major} toolkit, {AGAIN}'
        )
    header = 'include/cuda_runtime_api.h'
    if not Path(home, header).is_file():
        # nvcc on PATH may be a script outside the toolkit, where torch would look for headers and libraries.
        dry = [nvcc, '--dryrun', '-x', 'cu', '-c', os.devnull]
        said = subprocess.run(dry, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
        top = re.search(r'^#\$ TOP=(.+)$', said, re.M)
        if top and Path(top[1], header).is_file():
            cpp_extension.CUDA_HOME = os.path.normpath(top[1])
    return str(nvcc)


def get_architectures(torch, nvcc: str) -> list[str]:
    """Requested architectures, those of visible GPUs, or all that the compiler knows from 7.5 on, in torch's form.

    The newest is also kept as PTX, from which the driver compiles for newer GPUs.
    """
    asked = os.getenv('TORCH_CUDA_ARCH_LIST', '').replace(';', ' ').split()
    if asked:
        return asked
    said = subprocess.run([nvcc, '--list-gpu-arch'], stdout=subprocess.PIPE, text=True).stdout
    known = sorted({(int(major), int(minor)) for major, minor in re.findall(r'compute_(\d+)(\d)$', said, re.M)})
    known = [one for one in known if one >= (7, 5)]
    forced = os.getenv('FORCE_CUDA') == '1'
    seen = set() if forced else {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    if not known:
        raise CannotCompileError(
            f'{Path(nvcc).name} lists no architecture from 7.5 on. Set TORCH_CUDA_ARCH_LIST, {AGAIN}'
        )
    if seen:
        known = sorted({min(one, known[-1]) for one in seen})
    names = ['{}.{}'.format(*one) for one in known]
    return [*names[:-1], f'{names[-1]}+PTX']


class BuildOrtLibrary(build_ext):
    """Compiles and links the library for onnxruntime, which has nothing of torch or Python in it."""

    def get_ext_filename(self, name: str) -> str:
        return os.path.join(*name.split('.')[:-1], ORT_LIBRARY)

    def get_export_symbols(self, extension: Extension) -> list[str]:
        return []  # Python does not initialise it


def get_architecture_flags(architectures: list[str]) -> list[str]:
    """Flags for nvcc; none if a name is not a number, for which torch makes the flags.

    torch leaves out its own flags if any other flag has "arch" in it, even in the name of a folder.
    """
    parts = [re.fullmatch(r'(\d+)\.(\d[af]?)(\+PTX)?', name) for name in architectures]
    if not all(parts):
        return []
    codes = [(part[1] + part[2], kind) for part in parts for kind in (['sm', 'compute'] if part[3] else ['sm'])]
    return [f'-gencode=arch=compute_{number},code={kind}_{number}' for number, kind in codes]


def get_extension(torch, record: dict, nvcc: str | None) -> Extension:
    """The extension for CPUs, and with `nvcc` for GPUs, as torch compiles it.

    Without `nvcc` it is compiled against torch's stable ABI, if torch has it: one library for all such versions.
    """
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    kind, sources, flags = CppExtension, get_sources(), ['-O3', '-g0']
    # torch's checks contain __FILE__.
    hidden = [f'-ffile-prefix-map={path}/=' for path in (Path.cwd(), Path(torch.__path__[0]).parent)]
    stable = nvcc is None and tuple(map(int, re.findall(r'\d+', torch.__version__)[:2])) >= STABLE_ABI
    record['torch_from'] = '.'.join(map(str, STABLE_ABI)) if stable else None
    if stable:
        version = STABLE_ABI[0] << 56 | STABLE_ABI[1] << 48  # as torch/headeronly/version.h writes it
        flags += ['-DMMSPARX_STABLE_ABI', f'-DTORCH_TARGET_VERSION={version:#x}', '-fvisibility=hidden']
    # The extension is compiled for OpenMP but not linked to it: torch has loaded one runtime, and a second one would
    # have another pool of threads. torch's is GNU's, which clang does not compile for. The stable ABI has a parallel
    # loop of its own.
    elif sys.platform == 'linux' and record['compiler'].startswith('g++'):
        flags.append('-fopenmp')
    # The user's flags come last: setuptools and ninja each read only one of the two variables.
    flags += shlex.split(f'{os.getenv("CFLAGS", "")} {os.getenv("CXXFLAGS", "")}')
    arguments = {'cxx': [*flags, *hidden]}
    record['flags'] = [scrub(flag) for flag in flags]
    if nvcc:
        kind, sources = CUDAExtension, sources + get_sources(cuda=True)
        record['archs'] = get_architectures(torch, nvcc)
        compiler = [f'-Xcompiler={flag}' for flag in hidden if ',' not in flag]  # a comma would make two flags of it
        arguments['nvcc'] = ['-O3', *compiler, *get_architecture_flags(record['archs'])]
    extension = kind(NAME, sources, extra_compile_args=arguments, py_limited_api=True)
    # The library registers operators and does not use Python: one library serves every Python. The stable ABI is
    # entirely in torch_cpu.
    unused = {'torch_python', 'torch', 'c10'} if stable else {'torch_python'}
    extension.libraries = [library for library in extension.libraries if library not in unused]
    return extension


@contextlib.contextmanager
def output_to(file):
    """Redirect the output of this process and its children to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    for number in (1, 2):
        os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


class BuildOperators(build_ext):
    """Compiles the operators, or goes on without them, and records the outcome and its reason."""

    def run(self):
        keys = (
            'built',
            'reason',
            'torch',
            'torch_from',
            'compiler',
            'flags',
            'cuda',
            'cuda_reason',
            'archs',
            'ort_reason',
            'version',
        )
        record = dict.fromkeys((*keys, 'sources', 'log')) | {'built': False, 'flags': []}
        record |= {'version': self.distribution.get_version(), 'sources': get_digest()}
        paths, environment = sys.path[:], os.environ.copy()
        self.remove_libraries()  # of an earlier build, which a wheel would contain and the package would load
        try:
            self.compile(record)
            record['built'] = True
            found = f'{record["torch_from"]} and later' if record['torch_from'] else record['torch']
            message = f'compiled the operators with {record["compiler"]} for torch {found}'
            if record['cuda']:
                message += f', and for CUDA {record["cuda"]} on GPUs of {" ".join(record["archs"])}'
            elif os.getenv('FORCE_CUDA') == '1':
                message += f', and not for GPUs: {record["cuda_reason"]}'
            if record['ort_reason']:
                message += f'; no library for onnxruntime: {record["ort_reason"]}'
        except Exception as error:  # the package works without operators: the error is recorded and reported
            record['reason'] = ' '.join(scrub(str(error)).split())
            message = f'no compiled operators: {record["reason"]}'
            self.remove_libraries()
            # The package is pure Python from here on, so that a wheel is named as such.
            self.extensions = self.distribution.ext_modules = []
            if 'bdist_wheel' in self.distribution.command_obj:
                self.get_finalized_command('bdist_wheel').root_is_pure = True
        finally:
            sys.path[:] = paths
            os.environ.clear()
            os.environ.update(environment)
        for folder in self.get_folders():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RECORD).write_text(json.dumps(record, indent=2) + '\n')
        if get_switch() == '1' and not record['built']:
            raise SystemExit(f'MMSPARX_WITH_OPS=1, but {message}')
        sys.stderr.write(f'mmsparx: {message}\n')

    def compile(self, record: dict) -> None:
        if get_switch() == '0':
            raise CannotCompileError(f'MMSPARX_WITH_OPS=0 has switched it off. Unset that, {AGAIN}')
        if not get_sources():
            raise CannotCompileError(f'{SOURCES} holds no C++ sources. Take all of the source, {AGAIN}')
        command, record['compiler'] = get_compiler()
        torch = import_torch()
        record['torch'] = str(torch.__version__)
        with one_program(command, record['compiler'].split()[0]) as program:
            self.compile_by(program, torch, record)
        if self.inplace:
            self.copy_extensions_to_source()
            for source, target in self.get_ort_library():
                shutil.copy(source, target)

    def compile_by(self, command: str, torch, record: dict) -> None:
        os.environ['CXX'] = os.environ['CC'] = command  # ninja and all versions of setuptools read these
        if sys.platform == 'linux':  # Python's defaults may have an rpath of this machine
            os.environ.setdefault('LDSHARED', f'{command} -shared')
            os.environ.setdefault('LDCXXSHARED', f'{command} -shared')
        try:
            self.compile_with(torch, record, get_nvcc(torch))
            record['cuda'] = torch.version.cuda
        except Exception as error:  # the CPU kernels do not need CUDA
            if os.getenv('FORCE_CUDA') == get_switch() == '1':
                raise
            record.update(cuda_reason=' '.join(scrub(str(error)).split()), archs=None)
            self.remove_libraries()
            self.compile_with(torch, record)

    def compile_with(self, torch, record: dict, nvcc: str | None = None) -> None:
        from torch.utils.cpp_extension import BuildExtension

        self.distribution.ext_modules = [get_extension(torch, record, nvcc)]
        builder = BuildExtension(self.distribution)
        self.run_builder(builder, f'{record["compiler"]} and nvcc' if nvcc else record['compiler'], record)
        try:
            self.compile_ort_library(builder, record)
        except Exception as error:  # torch's operators do not need the library
            record['ort_reason'] = ' '.join(scrub(str(error)).split())
            Path(self.build_lib, 'mmsparx', ORT_LIBRARY).unlink(missing_ok=True)

    def compile_ort_library(self, operators: build_ext, record: dict) -> None:
        """The kernels are linked from the objects of the operators, so that they are compiled once."""
        sources = sorted(path.as_posix() for path in ORT_SOURCES.glob('*.cpp'))
        if not sources:
            raise CannotCompileError(f'{ORT_SOURCES} holds no C++ sources. Take all of the source, {AGAIN}')
        shared = sorted(path.as_posix() for pattern in ORT_SHARED for path in Path().glob(pattern))
        flags = operators.extensions[0].extra_compile_args['cxx']
        extension = Extension(
            f'mmsparx.{Path(ORT_LIBRARY).stem}',
            sources,
            language='c++',
            extra_compile_args=['-std=c++17', *flags, '-fvisibility=hidden'],
            extra_objects=operators.compiler.object_filenames(shared, output_dir=operators.build_temp),
            # The operators' library has kernels with the same names.
            extra_link_args=['-Wl,-Bsymbolic'] if sys.platform == 'linux' else [],
        )
        kept, self.distribution.ext_modules = self.distribution.ext_modules, [extension]
        try:
            self.run_builder(BuildOrtLibrary(self.distribution), record['compiler'], record)
        finally:
            self.distribution.ext_modules = kept

    def run_builder(self, builder: build_ext, compilers: str, record: dict) -> None:
        """Build the distribution's extension, and check that its library can be loaded."""
        builder.build_lib, builder.build_temp = self.build_lib, self.build_temp
        with tempfile.TemporaryFile() as file:
            try:
                with output_to(file):
                    builder.ensure_finalized()
                    builder.run()
            except Exception as error:
                file.seek(0)
                output = file.read().decode(errors='replace')
                sys.stderr.write(output)
                record['log'] = scrub(output).splitlines()[-20:]
                said = first_error(output, str(error))
                raise CannotCompileError(f'{compilers} failed: {said}. Fix that, {AGAIN}') from error
        try:
            ctypes.CDLL(
                os.path.abspath(os.path.join(self.build_lib, builder.get_ext_filename(builder.extensions[0].name)))
            )
        except OSError as error:  # a missing symbol, which linking does not detect
            raise CannotCompileError(f'the compiled library cannot be loaded: {error}. Fix that, {AGAIN}') from error

    def get_folders(self) -> list[Path]:
        """Folders of the built package and, in an editable installation, of the package itself."""
        folders = [Path(self.build_lib, 'mmsparx')]
        if self.inplace:
            folders.append(Path(self.get_finalized_command('build_py').get_package_dir('mmsparx')))
        return folders

    def get_ort_library(self) -> list[tuple[str, str]]:
        """Copies of the library for onnxruntime to make in an editable installation, as (source, target)."""
        source, *targets = (folder / ORT_LIBRARY for folder in self.get_folders())
        return [(str(source), str(target)) for target in targets if source.is_file()]

    def remove_libraries(self) -> None:
        for path in (path for folder in self.get_folders() for path in (*folder.glob('_C*'), folder / ORT_LIBRARY)):
            if path.suffix in ('.so', '.pyd'):
                path.unlink(missing_ok=True)

    def get_output_mapping(self):
        """Add the record and the library for onnxruntime, which a strict editable installation would leave out."""
        paths = [str(folder / RECORD) for folder in self.get_folders()]
        return super().get_output_mapping() | dict([paths, *self.get_ort_library()] if self.inplace else [])


class BuildWithConfigs(build_py):
    """Ships the configs and their index in mmsparx/.mim, as OpenMMLab's packages do."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, 'mmsparx', '.mim')
            ignored = shutil.ignore_patterns('__pycache__')
            shutil.copytree('configs', target / 'configs', dirs_exist_ok=True, ignore=ignored)
            shutil.copy('model-index.yml', target)


if __name__ == '__main__':
    get_switch()
    setup(
        # get_extension adds the flags, once the build has found torch.
        ext_modules=[Extension(NAME, get_sources(), language='c++', py_limited_api=True)],
        cmdclass={'build_py': BuildWithConfigs, 'build_ext': BuildOperators},
        # A Python without the global lock has no limited API.
        options={} if sysconfig.get_config_var('Py_GIL_DISABLED') else {'bdist_wheel': {'py_limited_api': 'cp310'}},
    )
