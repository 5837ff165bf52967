"""The clashes that are known, each a function of the environment, with the command that fixes it.

A check yields (status, what was found, how to fix it) for what is wrong, and nothing otherwise.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mmsparx.doctor.environment import PROVIDERS, Environment

STATUSES = ('ok', 'note', 'warning', 'error')  # from good to bad
# The versions of constraints.txt, and of the maintained fork of mmcv.
TESTED = {'torch': '2.11.0', 'mmcv': '2.1.0', 'onedl-mmcv': '2.3.6'}

Verdicts = Iterator[tuple[str, str, str]]


@dataclass(frozen=True)
class Finding:
    """A finding of a check.

    Attributes:
        name: Name of the check.
        status: One of `STATUSES`.
        found: Description of the clash.
        fix: Command that fixes it, or what to do.
    """

    name: str
    status: str
    found: str = ''
    fix: str = ''


def find_clashes(env: Environment) -> list[Finding]:
    """The findings of all checks; a check without one is ok."""
    findings = []
    for check in CHECKS:
        name = check.__name__
        findings += [Finding(name, *verdict) for verdict in check(env)] or [Finding(name, 'ok')]
    return findings


def _minor(version: str) -> tuple[int, ...]:
    """(2, 11) of '2.11.0+cu130'."""
    return tuple(int(part) for part in re.findall(r'\d+', version)[:2])


def _torchvision(torch: str) -> str:
    """The torchvision for pip of a torch version (0.15 for 2.0, and so on) and of its build."""
    build = re.search(r'\+(cpu|cu\d+|rocm[\d.]+|xpu)$', torch)
    index = f' --index-url https://download.pytorch.org/whl/{build[1]}' if build else ''
    return f'"torchvision==0.{_minor(torch)[1] + 15}.*"{index}'


def install_torch(env: Environment, version: str = TESTED['torch']) -> str:
    """torch in this version, and the torchvision that belongs to it."""
    first = 'pip uninstall -y torch torchvision && ' if 'torch' in env.versions else ''
    return f'{first}pip install torch=={version} {_torchvision(version)}'


def build_mmcv(env: Environment, version: str = '') -> str:
    """mmcv, in this version or the installed one, with its operators, compiled for the installed torch.

    Where torch sees a GPU, mmcv compiles for it, and fails without a toolkit.
    """
    installed = env.providers('mmcv')
    name = 'onedl-mmcv' if 'onedl-mmengine' in env.versions else 'mmcv'
    version = version or env.versions.get(name, TESTED[name])
    first = f'pip uninstall -y {" ".join(installed)} && ' if installed else ''
    # mmcv does not require what it is built with; and pip's cache does not know for which torch a wheel was compiled.
    return (
        f'{first}pip install "setuptools<82" wheel ninja psutil && MMCV_WITH_OPS=1 CFLAGS="-g0 -w" '
        f'pip install --no-cache-dir --no-build-isolation --no-binary {name} {name}=={version}'
    )


def python_version(env: Environment) -> Verdicts:
    if not (3, 10) <= _minor(env.python) <= (3, 12):
        yield 'note', f'Python {env.python}; tested are 3.10 to 3.12', 'python3.12 -m venv .venv'


def torch_version(env: Environment) -> Verdicts:
    version = env.versions.get('torch', TESTED['torch'])
    if not (2, 4) <= _minor(version) <= _minor(TESTED['torch']):
        status = 'error' if _minor(version) < (2, 4) else 'warning'
        yield status, f'torch {version} is untested; tested are 2.4 to {TESTED["torch"]}', install_torch(env)
    elif _minor(version) < (2, 6):
        found = f'torch {version} loads checkpoints weights-only only if asked to; your own scripts may not ask'
        yield 'note', found, 'export TORCH_FORCE_WEIGHTS_ONLY_LOAD=1'


def imports(env: Environment) -> Verdicts:
    modules: dict[str, list[str]] = {}  # by error: the first module is the cause of the others
    for module, error in env.imports.items():
        if error is not None and module != 'pkg_resources':
            modules.setdefault(error, []).append(module)
    for error, (module, *others) in modules.items():
        # Classification does without mmcv's operators.
        optional = _NO_OPERATORS in error and not {'mmdet.models', 'mmseg.models'} & env.imports.keys()
        meaning, fix = _diagnose(env, module, error)
        also = f'; for the same reason: {", ".join(others)}' if others else ''
        yield 'note' if optional else 'error', f'{module} cannot be imported: {meaning}{error}{also}', fix


_NO_OPERATORS = "No module named 'mmcv._ext'"
_OTHER_TORCH = re.compile(r'undefined symbol|lib(torch|c10|cudart)\S*: cannot open|torchvision::')


def _diagnose(env: Environment, module: str, error: str) -> tuple[str, str]:
    """(what the error means, how to fix it)."""
    package = module.partition('.')[0]
    if module == 'torch':
        return '', install_torch(env)
    if library := re.search(r'(lib(?!torch|c10|cudart)\S+): cannot open shared object', error):
        return '', f'install the system library {library[1]}'
    if module == 'torchvision' and _OTHER_TORCH.search(error):
        version = env.torch['version'] if env.torch else env.versions.get('torch', TESTED['torch'])
        fix = f'pip install --force-reinstall --no-deps {_torchvision(version)}'
        return 'it does not belong to this torch: ', fix
    if package == 'mmcv' and _OTHER_TORCH.search(error):
        return 'it was compiled for another torch: ', build_mmcv(env)
    if re.search(r"No module named 'mmcv(\._ext)?'", error):
        return 'it needs mmcv with compiled operators: ', build_mmcv(env)
    if re.search(r'MMCV==\S+ is used but incompatible', error):
        return 'not beside this mmcv: ', build_mmcv(env, TESTED['mmcv'])
    if 'transformers' in env.versions and re.search(r'transformers|huggingface|\.multimodal\.', error):
        version = env.versions['transformers']
        meaning = (
            f'mmpretrain, and so mmdet and mmseg, import their multimodal models where transformers is installed, and '
            f'these do not run with its version {version}; no network of mmsparx needs it: '
        )
        return meaning, 'pip uninstall -y transformers'
    if missing := re.search(r"No module named '(\w+)", error):
        return '', f'pip install {missing[1]}'
    names = env.providers(package)
    return '', ' '.join(['pip install --force-reinstall --no-deps', *(f'{x}=={env.versions[x]}' for x in names)])


def mmcv_on_gpu(env: Environment) -> Verdicts:
    if env.mmcv_cuda == 'not available' and env.torch and env.torch['gpus']:
        found = f"mmcv's operators were compiled without CUDA; this needs the CUDA {env.torch['cuda']} toolkit"
        yield 'warning', found, build_mmcv(env)


def setuptools(env: Environment) -> Verdicts:
    # onedl-mmengine does without.
    if env.imports.get('pkg_resources') is not None and env.providers('mmengine') != ['onedl-mmengine']:
        found = "pkg_resources cannot be imported, with which mmengine reads `_base_ = 'mmdet::...'`"
        yield 'error', found, 'pip install "setuptools<82"'


def duplicates(env: Environment) -> Verdicts:
    for name in PROVIDERS:
        if len(found := env.providers(name)) > 1:
            keep = f'pip uninstall -y {" ".join(found)} && pip install {found[0]}=={env.versions[found[0]]}'
            message = f'{" and ".join(found)} overwrite each other: both bring {name}'
            yield 'error', message, build_mmcv(env) if name == 'mmcv' else keep


def segmentation(env: Environment) -> Verdicts:
    missing = [name for name in ('ftfy', 'regex') if name not in env.versions]
    if 'mmseg.models' in env.imports and missing:
        yield 'error', f'mmseg needs {" and ".join(missing)}, and does not say so', f'pip install {" ".join(missing)}'


def variables(env: Environment) -> Verdicts:
    given = {name: value for name, value in env.variables.items() if value}
    if 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD' in given:
        name = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
        yield 'error', f'{name} is set: checkpoints could run any code, so the tools of mmsparx stop', f'unset {name}'
    for name, key in (('MMSPARX_SCAN_BACKEND', 'name'), ('MMSPARX_CPU_INSTRUCTION_SET', 'instruction_set')):
        known = list(dict.fromkeys(row[key] for row in env.backends if row[key]))
        runs = {row[key] for row in env.backends if row['missing'] is None}
        asked = given.get(name, 'auto')
        if asked == 'auto' or not known:
            continue
        if asked in runs:
            yield 'note', f'{name}={asked} chooses it, in place of the fastest that runs', f'unset {name}'
        else:
            found = f'{name}={asked} cannot run here' if asked in known else f'{name}={asked} is unknown'
            yield 'error', f'{found}; expected one of: {", ".join(known)}', f'unset {name}'


def compiled_scan(env: Environment) -> Verdicts:
    for row in env.backends:
        if row['name'] == 'native' and row['missing'] and row['fix']:
            status = 'warning' if row['lost'] else 'note'
            yield status, f'scans on {row["device"]} run without the compiled kernels: {row["missing"]}', row['fix']


def gpu(env: Environment) -> Verdicts:
    if not env.nvidia or env.torch is None or env.torch['gpus']:
        return
    if env.torch['cuda'] is None:
        found = f'there is an NVIDIA GPU, and torch {env.torch["version"]} is a build without CUDA'
        yield 'warning', found, install_torch(env, env.torch['version'].partition('+')[0])
    elif env.variables.get('CUDA_VISIBLE_DEVICES') in ('', '-1'):
        yield 'note', 'CUDA_VISIBLE_DEVICES hides the GPU from torch', 'unset CUDA_VISIBLE_DEVICES'
    else:
        found = f'torch, built for CUDA {env.torch["cuda"]}, cannot use the NVIDIA GPU'
        fix = 'install a newer driver, or a torch for the CUDA version that nvidia-smi shows; docker run --gpus all'
        yield 'warning', found, fix


CHECKS = (
    python_version,
    torch_version,
    imports,
    mmcv_on_gpu,
    setuptools,
    duplicates,
    segmentation,
    variables,
    compiled_scan,
    gpu,
)
