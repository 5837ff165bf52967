"""Builds the compiled selective scan where it can be built; all metadata is in pyproject.toml.

The package works without it: the pure-torch scan needs no build. An extension runs only with the
torch it was compiled against, so compile it with `pip install --no-build-isolation`, after torch.

Environment variables:
    MMSPARX_WITH_OPS: 0 compiles nothing; 1 makes the installation fail where the scan cannot be
        compiled; unset, it is compiled if torch can be imported.
    FORCE_CUDA: 1 compiles the CUDA kernels on a machine without a GPU as well.
    TORCH_CUDA_ARCH_LIST: the GPU architectures to compile for, such as "8.0;9.0" (read by torch).
    MAX_JOBS: how many compilers run at once (read by torch).
"""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SOURCES = Path('csrc/selective_scan')


def get_extensions() -> list:
    """The extension modules to compile: none as long as there are no sources."""
    asked = os.getenv('MMSPARX_WITH_OPS', '')
    if asked not in ('', '0', '1'):
        raise SystemExit(f'MMSPARX_WITH_OPS: expected 0, 1 or unset, got {asked!r}')
    sources = sorted(str(path) for path in SOURCES.rglob('*.cpp'))
    if asked == '0':
        return []
    if not sources:
        if asked == '1':
            raise SystemExit(
                f'MMSPARX_WITH_OPS=1 asks for the compiled scan, but {SOURCES} holds no C++ sources: this version has '
                'none. Unset it; the pure-torch scan is always there.'
            )
        return []
    try:
        import torch
        from torch.utils.cpp_extension import CUDA_HOME, CppExtension, CUDAExtension
    except ImportError as error:
        if asked == '1':
            raise SystemExit(
                f'MMSPARX_WITH_OPS=1 asks for the compiled scan, which needs torch while it is built: {error}. '
                'Install torch first, then this package with pip install --no-build-isolation.'
            ) from error
        return []
    extension, arguments = CppExtension, {'cxx': ['-O3', '-g0']}
    if os.getenv('FORCE_CUDA') == '1' or (torch.cuda.is_available() and CUDA_HOME):
        extension, arguments['nvcc'] = CUDAExtension, ['-O3']
        sources += sorted(str(path) for path in SOURCES.rglob('*.cu'))
    return [extension('mmsparx._C', sources, include_dirs=[str(SOURCES.resolve())], extra_compile_args=arguments)]


class BuildWithConfigs(build_py):
    """Ships the configs as mmsparx/.mim/configs, where OpenMMLab's packages have theirs."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, 'mmsparx', '.mim', 'configs')
            shutil.copytree('configs', target, dirs_exist_ok=True, ignore=shutil.ignore_patterns('__pycache__'))


def get_commands(extensions: list) -> dict:
    """torch's compiler driver is asked for only where something is compiled."""
    commands = {'build_py': BuildWithConfigs}
    if extensions:
        from torch.utils.cpp_extension import BuildExtension

        commands['build_ext'] = BuildExtension
    return commands


if __name__ == '__main__':
    extensions = get_extensions()
    setup(ext_modules=extensions, cmdclass=get_commands(extensions))
