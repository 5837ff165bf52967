"""What there is on this machine, as plain data that `clashes` and `report` read."""

import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from mmsparx.doctor import isolated
from mmsparx.version import __version__

# By import name, the distributions that bring it: the original one first, the maintained fork last.
PROVIDERS = {
    'mmengine': ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'mmcv-full', 'mmcv-lite', 'onedl-mmcv'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'mmseg': ('mmsegmentation', 'onedl-mmsegmentation'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
    'cv2': (
        'opencv-python',
        'opencv-python-headless',
        'opencv-contrib-python',
        'opencv-contrib-python-headless',
    ),
}
VARIABLES = (
    'CUDA_VISIBLE_DEVICES',
    'MMSPARX_CPU_INSTRUCTION_SET',
    'MMSPARX_SCAN_BACKEND',
    'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD',
)
# What is imported to see whether it can be, and the package without which it is not tried. A package comes
# after those that it imports.
_IMPORTS = {
    'torch': None,
    'mmsparx.ops': None,
    'torchvision': 'torchvision',
    'mmengine': 'mmengine',
    'pkg_resources': 'mmengine',
    'mmsparx.models': 'mmengine',
    'mmcv': 'mmcv',
    'mmcv.ops': 'mmcv',
    'mmdet': 'mmdet',
    'mmseg': 'mmseg',
    'mmpretrain': 'mmpretrain',
}
# Those of them that are asked something, too.
_CALLS = {
    'mmsparx.ops': 'mmsparx.doctor.backends:describe',
    'mmcv.ops': 'mmcv.ops:get_compiling_cuda_version',
}


@dataclass
class Environment:
    """A machine with its packages.

    Attributes:
        python: version of the interpreter.
        versions: by distribution, in its canonical spelling.
        imports: by module that was tried, None or why it cannot be imported.
        variables: those of `VARIABLES` that are set.
        torch: its version, cuda and gpus, as `backends.describe` says; None where mmsparx.ops cannot be imported.
        backends: the rows of `backends.describe`. Those that can run also have `told`, what `backends.check`
            returned, and `failed`, why it did not; one of them is None.
        mmcv_cuda: the CUDA version that mmcv's operators were compiled for, or 'not available'.
        nvidia: whether the system has an NVIDIA GPU, whatever torch says.
        nvcc: version of the CUDA compiler that torch would use.
        compiler: what the C++ compiler says of itself.
    """

    python: str = platform.python_version()
    versions: Mapping[str, str] = field(default_factory=dict)
    imports: Mapping[str, str | None] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    torch: Mapping | None = None
    backends: Sequence[Mapping] = ()
    mmcv_cuda: str | None = None
    nvidia: bool = False
    nvcc: str | None = None
    compiler: str | None = None

    def providers(self, name: str) -> list[str]:
        """The installed distributions that bring an import name."""
        return [each for each in PROVIDERS.get(name, (name,)) if each in self.versions]


def look() -> Environment:
    """The environment of this process. Takes the time of importing everything once."""
    versions = {}
    for distribution in distributions():
        # Neither is there where an installation was cut off.
        if distribution.read_text('METADATA') or distribution.read_text('PKG-INFO'):
            versions.setdefault(re.sub(r'[-_.]+', '-', distribution.name).lower(), distribution.version)
    tried = [name for name, needed in _IMPORTS.items() if needed is None or find_spec(needed)]
    outcomes = isolated.run(_CALLS.get(name, name) for name in tried)
    results, errors = ({name: outcomes[_CALLS.get(name, name)][i] for name in tried} for i in (0, 1))
    torch = results['mmsparx.ops']
    backends = _checked(torch.pop('backends')) if torch else []
    return Environment(
        versions=versions | {'mmsparx': __version__},
        imports=errors,
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        torch=torch,
        backends=backends,
        mmcv_cuda=results.get('mmcv.ops'),
        nvidia=any(Path('/proc/driver/nvidia/gpus').glob('*')) or _output('nvidia-smi', '-L').startswith('GPU '),
        nvcc=_nvcc(),
        compiler=_compiler(),
    )


def _checked(rows: list[dict]) -> list[dict]:
    calls = {
        i: f'mmsparx.doctor.backends:check {row["name"]} {row["device"]} {row["instruction_set"] or ""}'
        for i, row in enumerate(rows)
        if row['missing'] is None
    }
    outcomes = isolated.run(calls.values())
    for i, call in calls.items():
        rows[i]['told'], rows[i]['failed'] = outcomes[call]
    return rows


def _nvcc() -> str | None:
    """As torch looks for it."""
    home = os.environ.get('CUDA_HOME') or os.environ.get('CUDA_PATH')
    path = f'{home}/bin/nvcc' if home else shutil.which('nvcc') or '/usr/local/cuda/bin/nvcc'
    release = re.search(r'release (\d+\.\d+)', _output(path, '--version'))
    return release and release[1]


def _compiler() -> str | None:
    """As this package's installation looks for it."""
    names = [os.environ['CXX']] if os.environ.get('CXX') else ['c++', 'g++', 'clang++']
    said = (_output(*shlex.split(name), '--version') for name in names)
    return next((text.splitlines()[0] for text in said if text), None)


def _output(*command: str) -> str:
    """What a command writes, or nothing where it cannot be run."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ''
    return done.stdout if done.returncode == 0 else ''
