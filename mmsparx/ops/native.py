"""The compiled kernels of csrc, of all operators: loading them, or why they cannot be loaded.

The library and `_build.json`, what its build left to be known, lie in the package's folder; both are written
by setup.py. Everything works without them.
"""

import json
import os
import re
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch
from torch import Tensor

VARIABLE = 'MMSPARX_CPU_INSTRUCTION_SET'
ORT_LIBRARY = 'libmmsparx_ort.so'  # the scans for onnxruntime; see csrc/ort
_PACKAGE = Path(__file__).parents[1]
_NEWEST = 'map_norm_native'  # the operator that came last, which an older library lacks
REMEDY = '; to compile it: '  # between what is wrong and `rebuild()`


def rebuild(package: Path = _PACKAGE) -> str:
    """The command that compiles the kernels of this copy of mmsparx, from the source that it was installed from.

    mmsparx is on no index, so the command names a source: the clone that this copy lies in, or the folder, archive or
    address that pip has recorded (PEP 610). Where that is gone or a wheel, it is the current folder.
    """
    command = 'pip install --force-reinstall --no-deps --no-cache-dir'
    if (package.parent / 'setup.py').is_file():
        return f'{command} -e {shlex.quote(str(package.parent))}'
    installed = distributions(name='mmsparx', path=[str(package.parent)])
    recorded = (each.read_text('direct_url.json') for each in installed)
    origin = json.loads(next(filter(None, recorded), '{}'))
    source = url = origin.get('url', '')
    if vcs := origin.get('vcs_info'):
        source = '{}+{}@{}'.format(vcs['vcs'], url, vcs['commit_id'])
    elif url.startswith('file:'):
        path = url2pathname(urlsplit(url).path)
        source = path if os.path.exists(path) else ''
    if source and not source.endswith('.whl'):
        return f'{command} {shlex.quote(source)}'
    return f'{command} .  # in a clone of mmsparx, or with the path of its source archive in place of the dot'


def build_info(package: Path = _PACKAGE) -> dict:
    """The record of setup.py; {} without one.

    Among it are `built`, `reason`, `torch` (the version that it was compiled against), `torch_from` (the first version
    that it runs with, or None if that is `torch` alone), `compiler` and `flags`.
    """
    path = package / '_build.json'
    if not path.is_file():
        return {}
    try:
        info = json.loads(path.read_text())
        known = {'built': bool(info['built']), 'torch': str(info['torch']), 'reason': info['reason']}
        oldest = info.get('torch_from')
        return info | known | {'torch_from': oldest and str(oldest)}
    except (ValueError, KeyError, TypeError):  # cut off by a full disk, or another's
        return {
            'built': False,
            'torch': None,
            'reason': f'{path.name} is damaged',
        }


def load(package: Path = _PACKAGE) -> str | None:
    """Loads the library in a folder and returns None, or why it cannot be loaded, in one line."""
    if _loaded():
        return 'another copy of mmsparx in this process has loaded its own; import one of them alone'
    wrong = _load(package)
    return wrong and f'{wrong}{REMEDY}{rebuild(package)}'


def _load(package: Path) -> str | None:
    info = build_info(package)
    if not info:
        return 'it was not compiled, since this copy of mmsparx was not installed'
    if not info['built']:
        return f'it was not compiled: {info["reason"]}'
    if oldest := info['torch_from']:
        if _minor(torch.__version__) < _minor(oldest):
            return f'it was compiled for torch {oldest} and later, and this is torch {torch.__version__}'
    # torch promises its C++ interface, other than the stable ABI, to stay within a minor version alone.
    elif _minor(info['torch']) != _minor(torch.__version__):
        return f'it was compiled for torch {info["torch"]}, and this is torch {torch.__version__}'
    libraries = sorted(path for path in package.glob('_C*') if path.suffix in ('.so', '.pyd'))
    if len(libraries) != 1:
        found = ', '.join(path.name for path in libraries) or 'none'
        return f'expected one library _C*.so in {package}, found {found}'
    try:
        torch.ops.load_library(libraries[0])
    except OSError as error:
        return f'its library cannot be loaded ({error})'
    return None if _loaded(_NEWEST) else 'it was compiled from older sources of mmsparx'


def _loaded(operator: str = 'selective_scan_fwd_native') -> bool:
    return hasattr(torch.ops.mmsparx, operator)


def _minor(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r'\d+', version)[:2]))


_missing = load()
if _missing is not None and build_info().get('built'):
    # The warning comes at import, since users of compiled kernels should know at once that they are lost.
    warnings.warn(f"mmsparx: the compiled operators ('native') are not used: {_missing}", stacklevel=2)


def missing() -> str | None:
    """Reason why there are no compiled kernels, or None."""
    return _missing


def without_cuda(info: dict) -> str | None:
    """Reason why a library with this record has no kernels for GPUs, or None."""
    if info.get('cuda'):
        return None
    reason = info.get('cuda_reason') or 'its record does not say why'
    return f'it was compiled without CUDA kernels: {reason}{REMEDY}{rebuild()}'


def without_ort(package: Path = _PACKAGE) -> str | None:
    """Reason why there is no library for onnxruntime in a folder, or None."""
    if (package / ORT_LIBRARY).is_file():
        return None
    info = build_info(package)
    reason = info.get('ort_reason') or info.get('reason')
    if not info:
        reason = 'this copy of mmsparx was not installed'
    return f'it was not compiled: {reason or "its record does not say why"}{REMEDY}{rebuild(package)}'


def unfit(archs: list[str] | None, capability: tuple[int, int]) -> str | None:
    """Reason why kernels of these architectures ('8.0', '9.0a', '12.1+PTX') do not run on a GPU, or None."""
    for name in archs or []:
        parts = re.fullmatch(r'(\d+)\.(\d+)([af]?)(\+PTX)?', name)
        if parts is None:
            return None  # one of torch's names for several
        arch = int(parts[1]), int(parts[2])
        if arch == capability or (parts[3] == '' and arch <= capability and (parts[4] or arch[0] == capability[0])):
            return None
    gpu = '.'.join(map(str, capability))
    return (
        f'it was compiled for GPUs of {" ".join(archs or [])}, and this one is of {gpu}; '
        f'add {gpu} to its TORCH_CUDA_ARCH_LIST{REMEDY}TORCH_CUDA_ARCH_LIST={gpu} {rebuild()}'
    )


@cache
def _unfit(capability: tuple[int, int]) -> str | None:
    return unfit(build_info().get('archs'), capability)


_without_cuda = without_cuda(build_info())


def refusal(x: Tensor, devices: tuple[str, ...] = ('cpu', 'cuda')) -> str | None:
    """Reason why an operator with kernels for these types of device cannot run on such inputs, or None."""
    if x.device.type not in devices:
        return f'it has kernels for {" and ".join(devices)}, got tensors on {x.device.type}'
    if x.device.type == 'cpu':
        return None
    return _without_cuda or _unfit(torch.cuda.get_device_capability(x.device))


def instruction_sets() -> tuple[str, ...]:
    """The CPU instruction sets that this build has kernels for and this processor runs, best first."""
    return () if _missing is not None else tuple(torch.ops.mmsparx.cpu_instruction_sets())


def instruction_set() -> str:
    """The one in use: the best, unless the environment variable MMSPARX_CPU_INSTRUCTION_SET names another.

    Raises:
        RuntimeError: there are no compiled kernels, and why.
    """
    _require()
    return torch.ops.mmsparx.cpu_instruction_set()


@contextmanager
def use_instruction_set(name: str) -> Iterator[None]:
    """Run the CPU kernels of this process (all its threads) with this instruction set.

    Raises:
        ValueError: not one of `instruction_sets()`.
        RuntimeError: there are no compiled kernels, and why.
    """
    before = instruction_set()
    _choose(name, 'use_instruction_set')
    try:
        yield
    finally:
        torch.ops.mmsparx.use_cpu_instruction_set(before)


def _choose(name: str, asked: str) -> None:
    known = instruction_sets()
    if name not in known:
        raise ValueError(
            f'unknown instruction set {name!r}, asked for by {asked}; this machine and build have: {", ".join(known)}'
        )
    torch.ops.mmsparx.use_cpu_instruction_set(name)


def _require() -> None:
    if _missing is not None:
        raise RuntimeError(f"there are no compiled kernels ('native'): {_missing}")


if _missing is None and os.environ.get(VARIABLE):
    try:
        _choose(os.environ[VARIABLE], f'the environment variable {VARIABLE}')
    except ValueError as error:  # machines of one cluster share their environment, not their processors
        warnings.warn(f'mmsparx: {error}; using {instruction_set()!r}', stacklevel=2)
