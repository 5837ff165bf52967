"""The environment on this machine, as plain data that `clashes` and `report` read."""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from mmsparx.doctor import isolated
from mmsparx.version import __version__

# Distributions of each package, by import name: the original one first, the maintained fork last.
PROVIDERS = {
    'mmengine': ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'mmcv-full', 'mmcv-lite', 'onedl-mmcv'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'mmseg': ('mmsegmentation', 'onedl-mmsegmentation'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
}
VARIABLES = (
    'CUDA_VISIBLE_DEVICES',
    'MMSPARX_CPU_INSTRUCTION_SET',
    'MMSPARX_DEPTHWISE_CONV_BACKEND',
    'MMSPARX_MAP_NORM_BACKEND',
    'MMSPARX_SCAN_BACKEND',
    'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD',
)
_DESCRIBE = 'mmsparx.doctor.backends:describe'
_MMCV_CUDA = 'mmcv.ops:get_compiling_cuda_version'
# Modules and functions to import or call as a test, by the package that they need. For the libraries these are the
# parts that a run imports, since some import lazily: `import mmdet` succeeds where `mmdet.models` does not.
_TRIED = {
    'torch': ('torch', _DESCRIBE),
    'torchvision': ('torchvision',),
    'mmengine': ('mmengine', 'pkg_resources', 'mmsparx.models'),
    'mmcv': ('mmcv', _MMCV_CUDA),
    **{
        library: tuple(f'{library}.{part}' for part in ('models', 'datasets', 'engine', 'evaluation', 'visualization'))
        for library in ('mmdet', 'mmseg', 'mmpretrain')
    },
}


@dataclass
class Environment:
    """A machine with its packages.

    Attributes:
        python: Version of the interpreter.
        versions: Versions of the installed distributions, by their canonical names.
        imports: Results of the imports that were tried, by module: None, or why it cannot be imported.
        variables: Set environment variables among `VARIABLES`.
        torch: Version, cuda and gpus of torch, and the library for onnxruntime, of `backends.describe`; None where
            mmsparx.ops cannot be imported.
        backends: The rows of `backends.describe`. Those that can run also have `message`, the text that
            `backends.check` returned, and `failed`, the reason why it raised; one of them is None.
        mmcv_cuda: CUDA version that mmcv's operators were compiled for, or 'not available'.
        nvidia: Whether the system has an NVIDIA GPU, whatever torch says.
    """

    python: str = platform.python_version()
    versions: Mapping[str, str] = field(default_factory=dict)
    imports: Mapping[str, str | None] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    torch: Mapping | None = None
    backends: Sequence[Mapping] = ()
    mmcv_cuda: str | None = None
    nvidia: bool = False

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
    tried = [call for name, calls in _TRIED.items() if name == 'torch' or find_spec(name) for call in calls]
    outcomes = isolated.run(tried)
    torch, _ = outcomes[_DESCRIBE]
    rows = torch.pop('backends') if torch else []
    checks = {
        f'mmsparx.doctor.backends:check {row["name"]} {row["device"]} {row["instruction_set"] or ""}': row
        for row in rows
        if row['missing'] is None
    }
    for call, outcome in isolated.run(checks).items():
        checks[call]['message'], checks[call]['failed'] = outcome
    modules = {_DESCRIBE: 'mmsparx.ops'}
    return Environment(
        versions=versions | {'mmsparx': __version__},
        imports={modules.get(call, call.partition(':')[0]): error for call, (_, error) in outcomes.items()},
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        torch=torch,
        backends=rows,
        mmcv_cuda=outcomes.get(_MMCV_CUDA, (None, None))[0],
        nvidia=any(Path('/proc/driver/nvidia/gpus').glob('*')) or Path('/dev/nvidia0').exists(),
    )
