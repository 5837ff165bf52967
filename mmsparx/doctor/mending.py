"""The commands that mend an environment."""

import re

from mmsparx.doctor.environment import PROVIDERS, Environment

# What is installed where nothing says which version: that of constraints.txt, and of the maintained fork.
TESTED = {'torch': '2.11.0', 'mmcv': '2.1.0', 'onedl-mmcv': '2.3.6'}


def minor(version: str) -> tuple[int, ...]:
    """(2, 11) of '2.11.0+cu130'."""
    return tuple(int(part) for part in re.findall(r'\d+', version)[:2])


def torchvision_minor(torch: str) -> tuple[int, int]:
    """The torchvision that belongs to a torch: 0.15 came with 2.0, and so on."""
    return 0, minor(torch)[1] + 15


def install_torch(env: Environment, version: str | None = None) -> str:
    """torch anew, in this version (default: the installed one), and the torchvision that belongs to it."""
    version = version or env.versions.get('torch', TESTED['torch'])
    first = 'pip uninstall -y torch torchvision && ' if 'torch' in env.versions else ''
    return f'{first}pip install torch=={public(version)} {_torchvision(version)}'


def install_torchvision(env: Environment) -> str:
    """The torchvision of the installed torch, and of its build for a CPU or a CUDA version."""
    version = env.torch['version'] if env.torch else env.versions.get('torch', TESTED['torch'])
    return f'pip install --force-reinstall --no-deps {_torchvision(version)}'


def _torchvision(torch: str) -> str:
    build = re.search(r'\+(cpu|cu\d+|rocm[\d.]+|xpu)$', torch)
    index = f' --index-url https://download.pytorch.org/whl/{build[1]}' if build else ''
    return '"torchvision=={}.{}.*"'.format(*torchvision_minor(torch)) + index


def public(version: str) -> str:
    """2.11.0 of '2.11.0+cu130'."""
    return version.partition('+')[0]


def preferred(env: Environment, name: str) -> str:
    """The distribution that should bring an import name: of the family that most installed ones belong to."""
    installed = [each for each_name in PROVIDERS if each_name != 'cv2' for each in env.providers(each_name)]
    fork = 2 * sum(map(_is_fork, installed)) > len(installed)
    return next((each for each in PROVIDERS[name] if _is_fork(each) == fork), PROVIDERS[name][0])


def _is_fork(distribution: str) -> bool:
    return distribution.startswith('onedl-')


def build_mmcv(env: Environment, version: str | None = None) -> str:
    """mmcv with its operators, compiled for the installed torch, in place of any other distribution of it.

    Where torch sees a GPU, mmcv compiles for it, and fails without a toolkit.

    Args:
        env: the environment.
        version: of the original mmcv; default: the installed one, of the family that is installed.
    """
    name = 'mmcv' if version else preferred(env, 'mmcv')
    installed = env.providers('mmcv')
    steps = [f'pip uninstall -y {" ".join(installed)}'] if installed not in ([], [name]) else []
    # They are in no requirements of mmcv's; and pip's cache does not know for which torch a wheel was compiled.
    steps.append('pip install "setuptools<82" wheel ninja psutil')
    again = '--force-reinstall --no-deps ' if installed == [name] else ''
    version = version or env.versions.get(name, TESTED[name])
    steps.append(
        'MMCV_WITH_OPS=1 CFLAGS="-g0 -w" pip install --no-cache-dir --no-build-isolation '
        f'{again}--no-binary {name} {name}=={version}'
    )
    toolkit = env.torch and env.torch['gpus'] and not env.nvcc
    return (f'install the CUDA {env.torch["cuda"]} toolkit, then ' if toolkit else '') + ' && '.join(steps)


def keep_one(env: Environment, name: str) -> str:
    """Of several distributions that bring an import name, and overwrite each other's files, one."""
    if name == 'mmcv':
        return build_mmcv(env)
    keep = preferred(env, name)
    pin = f'=={env.versions[keep]}' if keep in env.versions else ''
    return f'pip uninstall -y {" ".join(env.providers(name))} && pip install {keep}{pin}'


def reinstall(env: Environment, module: str, error: str) -> str:
    """The package of a module that cannot be imported, or what it requires."""
    name = next(iter(env.providers(module.partition('.')[0])), None)
    if name is None:  # on the path without having been installed
        return 'pip check'
    requirement = f'{name}=={public(env.versions[name])}'
    if 'No module named' in error:
        return f'pip install {requirement}'
    if module.startswith('mmcv'):
        return build_mmcv(env)
    return f'pip install --force-reinstall --no-deps --no-cache-dir {requirement}'
