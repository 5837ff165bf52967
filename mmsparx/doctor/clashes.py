"""The clashes that are known, each a function of the environment, with the command that mends it.

A check yields (status, what was found, how to mend it) for what is wrong, and nothing otherwise.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mmsparx.doctor import mending
from mmsparx.doctor.environment import PROVIDERS, Environment
from mmsparx.doctor.mending import minor

STATUSES = ('ok', 'note', 'warning', 'error')  # from good to bad

Verdicts = Iterator[tuple[str, str, str]]


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        name: of the check.
        status: one of `STATUSES`.
        found: in words.
        mend: the command that mends it.
    """

    name: str
    status: str
    found: str = ''
    mend: str = ''


def find_clashes(env: Environment) -> list[Finding]:
    """The findings of all checks; a check without one is ok."""
    findings = []
    for check in CHECKS:
        name = check.__name__
        findings += [Finding(name, *verdict) for verdict in check(env)] or [Finding(name, 'ok')]
    return findings


def python_version(env: Environment) -> Verdicts:
    if not (3, 10) <= minor(env.python) <= (3, 12):
        yield 'note', f'Python {env.python}; tested are 3.10 to 3.12', 'python3.12 -m venv .venv'


def torch_version(env: Environment) -> Verdicts:
    version = env.versions.get('torch')
    if version is None or minor(version) >= (2, 6):
        return
    if minor(version) < (2, 4):
        mend = mending.install_torch(env, mending.TESTED['torch'])
        yield 'error', f'torch {version}; expected 2.4 to 2.11', mend
    else:
        found = (
            f'torch {version} loads checkpoints weights-only where it is asked to alone; '
            'the tools of mmsparx ask for it, your own scripts may not'
        )
        yield 'note', found, 'export TORCH_FORCE_WEIGHTS_ONLY_LOAD=1'


def torchvision_version(env: Environment) -> Verdicts:
    torch, torchvision = env.versions.get('torch'), env.versions.get('torchvision')
    # Where it cannot be imported, `imports` says so.
    if torch and torchvision and env.imports.get('torchvision') is None:
        expected = mending.torchvision_minor(torch)
        if minor(torchvision) != expected:
            found = f'torchvision {torchvision} beside torch {torch}; expected {expected[0]}.{expected[1]}'
            yield 'warning', found, mending.install_torchvision(env)


def imports(env: Environment) -> Verdicts:
    modules: dict[str, list[str]] = {}  # by error: the first module is the cause of the others
    for module, error in env.imports.items():
        if error is not None and module != 'pkg_resources':
            modules.setdefault(error, []).append(module)
    for error, (module, *others) in modules.items():
        # Classification does without mmcv's operators.
        optional = _NO_OPERATORS in error and not {'mmdet', 'mmseg'} & env.imports.keys()
        meaning, mend = _diagnose(env, module, error)
        also = f'; for the same reason: {", ".join(others)}' if others else ''
        yield 'note' if optional else 'error', f'{module} cannot be imported: {meaning}{error}{also}', mend


_NO_OPERATORS = "No module named 'mmcv._ext'"
_OTHER_TORCH = re.compile(r'undefined symbol|lib(torch|c10|cudart)\S*: cannot open|torchvision::')


def _diagnose(env: Environment, module: str, error: str) -> tuple[str, str]:
    """(what the error means, how to mend it)."""
    if module == 'torch':
        return '', mending.install_torch(env)
    if module == 'torchvision' and _OTHER_TORCH.search(error):
        return 'it does not belong to this torch: ', mending.install_torchvision(env)
    if module.startswith('mmcv') and _OTHER_TORCH.search(error):
        return 'it was compiled for another torch: ', mending.build_mmcv(env)
    if _NO_OPERATORS in error:
        return 'mmcv has no compiled operators: ', mending.build_mmcv(env)
    if "No module named 'mmcv'" in error:
        return 'it needs mmcv: ', mending.build_mmcv(env)
    if re.search(r'MMCV==\S+ is used but incompatible', error):
        return 'not beside this mmcv: ', mending.build_mmcv(env, mending.TESTED['mmcv'])
    if library := re.search(r'(lib\S+): cannot open shared object', error):
        return '', f'install the system library {library[1]}'
    return '', mending.reinstall(env, module, error)


def mmcv_on_gpu(env: Environment) -> Verdicts:
    if env.mmcv_cuda == 'not available' and env.torch and env.torch['gpus']:
        found = "mmcv's operators (nms, roi_align, ...) were compiled without CUDA, and do not run on the GPU"
        yield 'warning', found, mending.build_mmcv(env)


def setuptools(env: Environment) -> Verdicts:
    # onedl-mmengine does without.
    if env.imports.get('pkg_resources') is not None and env.providers('mmengine') != ['onedl-mmengine']:
        version = env.versions.get('setuptools')
        found = (
            f'{f"setuptools {version}" if version else "no setuptools"}: pkg_resources cannot be imported, with '
            "which mmengine reads `_base_ = 'mmdet::...'`"
        )
        yield 'error', found, 'pip install "setuptools<82"'


def duplicates(env: Environment) -> Verdicts:
    for name in PROVIDERS:
        if len(found := env.providers(name)) > 1:
            told = f'{" and ".join(found)} overwrite each other: both bring {name}'
            yield 'note' if name == 'cv2' else 'error', told, mending.keep_one(env, name)


def segmentation(env: Environment) -> Verdicts:
    missing = [name for name in ('ftfy', 'regex') if name not in env.versions]
    if 'mmseg' in env.imports and missing:
        yield 'error', f'mmseg needs {" and ".join(missing)}, and does not say so', f'pip install {" ".join(missing)}'


def safe_loading(env: Environment) -> Verdicts:
    name = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
    if env.variables.get(name):
        yield 'error', f'{name} is set: checkpoints could run any code, so the tools of mmsparx stop', f'unset {name}'


def scan_backend(env: Environment) -> Verdicts:
    name = 'MMSPARX_SCAN_BACKEND'
    if not (asked := env.variables.get(name)) or not env.backends:
        return
    known = dict.fromkeys(row['name'] for row in env.backends)
    if asked not in ('auto', *known):
        yield 'error', f'{name}={asked}: unknown; expected auto, {" or ".join(known)}', f'unset {name}'
    elif asked != 'auto' and all(row['missing'] for row in env.backends if row['name'] == asked):
        yield 'error', f'{name}={asked}: it cannot run here', f'unset {name}'


def instruction_set(env: Environment) -> Verdicts:
    name = 'MMSPARX_CPU_INSTRUCTION_SET'
    known = [row['instruction_set'] for row in env.backends if row['instruction_set']]
    if known and env.variables.get(name) and env.variables[name] not in known:
        found = f'{name}={env.variables[name]} is unknown here, and passed over; known ones: {", ".join(known)}'
        yield 'warning', found, f'unset {name}'


def compiled_scan(env: Environment) -> Verdicts:
    for row in env.backends:
        if row['name'] == 'native' and row['device'] is None:
            # "What is wrong; how to mend it", or both in one sentence.
            wrong, _, mend = row['missing'].rpartition('; ')
            status = 'warning' if row['lost'] else 'note'
            yield status, f'scans on a CPU run in pure torch: {wrong or mend}', mend if wrong else ''


def compiler(env: Environment) -> Verdicts:
    missing = any(row['name'] == 'native' and row['device'] is None for row in env.backends)
    if missing and env.compiler is None:
        yield 'note', 'no C++ compiler; without it the scan stays in pure torch', 'apt-get install g++'


def gpu(env: Environment) -> Verdicts:
    if not env.nvidia or env.torch is None or env.torch['gpus']:
        return
    hidden = env.variables.get('CUDA_VISIBLE_DEVICES')
    if env.torch['cuda'] is None:
        found = f'there is an NVIDIA GPU, and torch {env.torch["version"]} is a build without CUDA'
        yield 'warning', found, mending.install_torch(env, mending.public(env.torch['version']))
    elif hidden in ('', '-1'):
        found = f'CUDA_VISIBLE_DEVICES={hidden} hides the GPU from torch'
        yield 'note', found, 'unset CUDA_VISIBLE_DEVICES'
    else:
        found = (
            f'torch, built for CUDA {env.torch["cuda"]}, cannot use the NVIDIA GPU: the driver is too old for it, '
            'or this is a container that was started without the GPU'
        )
        mend = 'install a newer driver, or a torch for the CUDA version that `nvidia-smi` shows; docker run --gpus all'
        yield 'warning', found, mend


def cuda_toolkit(env: Environment) -> Verdicts:
    if env.nvcc and env.torch and env.torch['cuda'] and minor(env.nvcc)[0] != minor(env.torch['cuda'])[0]:
        major = minor(env.torch['cuda'])[0]
        found = f'nvcc {env.nvcc} cannot compile extensions for a torch with CUDA {env.torch["cuda"]}'
        yield 'warning' if env.torch['gpus'] else 'note', found, f'export CUDA_HOME=/path/to/cuda-{major}'


def openmim(env: Environment) -> Verdicts:
    if 'openmim' in env.versions:
        found = 'openmim is installed: it wants a setuptools that torch cannot live with; do not `mim install`'
        yield 'note', found, 'pip uninstall -y openmim'


CHECKS = (
    python_version,
    torch_version,
    torchvision_version,
    imports,
    mmcv_on_gpu,
    setuptools,
    duplicates,
    segmentation,
    safe_loading,
    scan_backend,
    instruction_set,
    compiled_scan,
    compiler,
    gpu,
    cuda_toolkit,
    openmim,
)
