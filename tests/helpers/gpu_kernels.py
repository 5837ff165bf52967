"""The CUDA kernels as backends on CPU tensors: emulated on a CPU, and on a GPU where there is one."""

import importlib.util
import shutil
import sys
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from mmsparx.ops import native
from mmsparx.ops.selective_scan import cross
from mmsparx.ops.selective_scan.backends import Backend

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / 'csrc' / 'selective_scan'


def emulation_missing() -> str | None:
    """Reason why the kernels cannot be compiled for a CPU here, or None."""
    if sys.platform != 'linux':
        return 'the emulation of a GPU is for Linux'
    if not SOURCES.is_dir():
        return 'needs the repository'
    if not importlib.util.find_spec('ninja') or not shutil.which('c++'):
        return 'needs ninja and a C++ compiler'
    return None


@cache
def emulated(lanes: bool = False) -> Backend:
    """The kernels on a CPU, compiled at their first use (20 s) and when they have changed.

    Args:
        lanes: Whether any number of rows is enough for the kernels with a lane per row; else none is.
    """
    from torch.utils import cpp_extension  # the import warns if there is a CUDA toolkit and no GPU

    folder = ROOT / 'build' / 'emulated_gpu'
    folder.mkdir(parents=True, exist_ok=True)
    cpp_extension.load(
        'mmsparx_emulated',
        [str(Path(__file__).parent / 'emulated_gpu' / 'emulated.cpp')],
        extra_include_paths=[str(SOURCES)],
        extra_cflags=['-O1', '-g0', '-Wall', '-Werror', '-Wno-unknown-pragmas', '-Wno-unused-function'],
        build_directory=str(folder),
        is_python_module=False,
    )
    operators = torch.ops.mmsparx_emulated

    def on_chip(run):
        def on_chip(*arguments):
            operators.let_lanes_fill(lanes)
            return run(*arguments)

        return on_chip

    return Backend(
        'emulated-lanes' if lanes else 'emulated',
        on_chip(operators.forward),
        on_chip(operators.backward),
        cross_forward=partial(cross.forward_with_delta, on_chip(operators.cross_forward)),
        cross_backward=partial(cross.backward_with_delta, on_chip(operators.cross_backward)),
    )


def gpu_missing() -> str | None:
    """Reason why the kernels cannot run on a GPU here, or None."""
    if native.missing():
        return f'the compiled kernels are not here: {native.missing()}'
    if not torch.cuda.is_available():
        return 'torch sees no GPU'
    return native.refusal(torch.empty(1, 1, 1, device='cuda'))


def on_gpu(backend: Backend) -> Backend:
    """A backend for CPU tensors that runs another on a GPU."""

    def elsewhere(run):
        return lambda *arguments: _everywhere(run(*_everywhere(arguments, 'cuda')), 'cpu')

    return Backend(
        f'{backend.name}-on-gpu',
        elsewhere(backend.forward),
        elsewhere(backend.backward),
        cross_forward=elsewhere(backend.cross_forward),
        cross_backward=elsewhere(backend.cross_backward),
    )


def _everywhere(values: tuple, device: str) -> tuple:
    return tuple(_moved(x, device) if isinstance(x, Tensor) else x for x in values)


def _moved(x: Tensor, device: str) -> Tensor:
    """Move a tensor with its whole storage, so that its offset, its strides and the memory around it stay the same."""
    storage = torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage()).to(device)
    return storage.as_strided(x.size(), x.stride(), x.storage_offset())
