"""Every clash is recognised where it is, with the command that mends it, and nowhere else."""

import re
from pathlib import Path

import pytest

from mmsparx.doctor.clashes import CHECKS, STATUSES, find_clashes
from mmsparx.doctor.environment import VARIABLES, Environment
from mmsparx.doctor.mending import TESTED
from mmsparx.ops.selective_scan import backends, native

MODULES = (
    'torch',
    'mmsparx.ops',
    'torchvision',
    'mmengine',
    'pkg_resources',
    'mmsparx.models',
    'mmcv',
    'mmcv.ops',
    'mmdet',
    'mmseg',
    'mmpretrain',
)
VERSIONS = {
    'mmsparx': '0.1.0',
    'torch': '2.11.0',
    'torchvision': '0.26.0',
    'setuptools': '79.0.1',
    'mmengine': '0.10.7',
    'mmcv': '2.1.0',
    'mmdet': '3.3.0',
    'mmsegmentation': '1.2.2',
    'mmpretrain': '1.2.0',
    'ftfy': '6.3.1',
    'regex': '2026.11.15',
    'opencv-python': '5.0.0.93',
}
FORKS = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
    'mmsegmentation': 'onedl-mmsegmentation',
    'mmpretrain': 'onedl-mmpretrain',
}
ONEDL = {FORKS.get(name, name): version for name, version in VERSIONS.items()} | {'onedl-mmcv': '2.3.6'}
CPU = {'version': '2.11.0+cpu', 'cuda': None, 'gpus': []}
CUDA = {'version': '2.11.0+cu130', 'cuda': '13.0', 'gpus': []}
H100 = CUDA | {'gpus': [{'name': 'NVIDIA H100', 'capability': '9.0', 'memory_gib': 79.6}]}
BUILD = 'MMCV_WITH_OPS=1 CFLAGS="-g0 -w" pip install --no-cache-dir --no-build-isolation '
PREPARE = 'pip install "setuptools<82" wheel ninja psutil && '
REBUILD = f'{PREPARE}{BUILD}--force-reinstall --no-deps --no-binary mmcv mmcv=='
SYMBOL = 'ImportError: /path/to/mmcv/_ext.so: undefined symbol: _ZN3c105ErrorE'


def row(name, device, instruction_set=None, missing=None, **others):
    return dict(name=name, device=device, instruction_set=instruction_set, in_use=False, missing=missing) | others


ROWS = [row('native', 'cpu', 'avx2'), row('native', 'cpu', 'baseline'), row('reference', 'cpu')]
NOT_ON_CUDA = 'it has kernels for cpu alone, got tensors on cuda'
ROWS_ON_GPU = [*ROWS[:2], row('native', 'cuda', missing=NOT_ON_CUDA), ROWS[2], row('reference', 'cuda')]


def without(reason, lost=False):
    return [row('native', None, missing=reason, lost=lost), ROWS[2]]


def environment(versions=None, imports=None, **others):
    """A healthy environment with these changes; None takes away what is installed or was tried."""
    merged = {
        key: {name: value for name, value in (healthy | (changes or {})).items() if value != 'absent'}
        for key, healthy, changes in (
            ('versions', VERSIONS, versions),
            ('imports', dict.fromkeys(MODULES), imports),
        )
    }
    known = dict(python='3.11.9', torch=CUDA, backends=ROWS, mmcv_cuda='13.0', compiler='g++ 12.2.0')
    return Environment(**merged, **(known | others))


def absent(*names):
    return dict.fromkeys(names, 'absent')


ONLY_TORCH = {
    'versions': absent(*(name for name in VERSIONS if name not in ('mmsparx', 'torch', 'opencv-python'))),
    'imports': absent(*(name for name in MODULES if name not in ('torch', 'mmsparx.ops'))),
    'mmcv_cuda': None,
}
ON_FORKS = {'versions': absent(*FORKS) | ONEDL}

CLASHES = [
    # what is changed, check, status, found, mend
    (dict(python='3.13.1'), 'python_version', 'note', 'Python 3.13.1', 'python3.12 -m venv .venv'),
    (
        dict(versions={'torch': '2.3.1', 'torchvision': '0.18.1'}),
        'torch_version',
        'error',
        'torch 2.3.1; expected 2.4',
        'pip uninstall -y torch torchvision && pip install torch==2.11.0 "torchvision==0.26.*"',
    ),
    (
        dict(versions={'torch': '2.5.1+cu124', 'torchvision': '0.20.1+cu124'}),
        'torch_version',
        'note',
        'torch 2.5.1.* loads checkpoints weights-only where it is asked to alone',
        'export TORCH_FORCE_WEIGHTS_ONLY_LOAD=1',
    ),
    (
        dict(versions={'torchvision': '0.25.0'}),
        'torchvision_version',
        'warning',
        r'torchvision 0.25.0 beside torch 2.11.0; expected 0\.26$',
        'pip install --force-reinstall --no-deps "torchvision==0.26.*" '
        '--index-url https://download.pytorch.org/whl/cu130',
    ),
    (
        dict(imports={'torchvision': 'RuntimeError: operator torchvision::nms does not exist'}, torch=CPU),
        'imports',
        'error',
        'torchvision cannot be imported: it does not belong to this torch: RuntimeError: operator torchvision::nms',
        'pip install --force-reinstall --no-deps "torchvision==0.26.*" '
        '--index-url https://download.pytorch.org/whl/cpu',
    ),
    (
        dict(imports=dict.fromkeys(('torch', 'mmsparx.ops', 'mmcv.ops'), 'OSError: libtorch.so'), torch=None),
        'imports',
        'error',
        'torch cannot be imported: OSError: libtorch.so; for the same reason: mmsparx.ops, mmcv.ops$',
        'pip uninstall -y torch torchvision && pip install torch==2.11.0 "torchvision==0.26.*"',
    ),
    (
        dict(versions=absent('torch'), imports={'torch': "ModuleNotFoundError: No module named 'torch'"}, torch=None),
        'imports',
        'error',
        'torch cannot be imported',
        'pip install torch==2.11.0 "torchvision==0.26.*"',
    ),
    (
        dict(imports={'mmcv.ops': SYMBOL, 'mmdet': SYMBOL}),
        'imports',
        'error',
        'mmcv.ops cannot be imported: it was compiled for another torch: .*undefined symbol.*: mmdet$',
        f'{REBUILD}2.1.0',
    ),
    (
        dict(imports={'mmcv.ops': 'ImportError: libtorch_cuda.so: cannot open shared object file: no such file'}),
        'imports',
        'error',
        'it was compiled for another torch',
        f'{REBUILD}2.1.0',
    ),
    (
        dict(imports={'mmcv.ops': SYMBOL}, **ON_FORKS),
        'imports',
        'error',
        'it was compiled for another torch',
        f'{PREPARE}{BUILD}--force-reinstall --no-deps --no-binary onedl-mmcv onedl-mmcv==2.3.6',
    ),
    (
        dict(imports={'mmcv.ops': 'the process was ended by SIGSEGV'}),
        'imports',
        'error',
        'ended by SIGSEGV',
        f'{REBUILD}2.1.0',
    ),
    (
        dict(
            versions={'mmcv': 'absent', 'mmcv-lite': '2.1.0'},
            imports={'mmcv.ops': "ModuleNotFoundError: No module named 'mmcv._ext'"},
        ),
        'imports',
        'error',
        'mmcv has no compiled operators',
        f'pip uninstall -y mmcv-lite && {PREPARE}{BUILD}--no-binary mmcv mmcv==2.1.0',
    ),
    (
        dict(
            versions=absent('mmdet', 'mmsegmentation'),
            imports={
                'mmcv.ops': "ModuleNotFoundError: No module named 'mmcv._ext'",
                'mmdet': 'absent',
                'mmseg': 'absent',
            },
        ),
        'imports',
        'note',
        'mmcv has no compiled operators',
        f'{REBUILD}2.1.0',
    ),
    (
        dict(
            versions=absent('mmcv'),
            imports=absent('mmcv', 'mmcv.ops')
            | dict.fromkeys(('mmdet', 'mmpretrain'), "ModuleNotFoundError: No module named 'mmcv'"),
        ),
        'imports',
        'error',
        'mmdet cannot be imported: it needs mmcv: .*: mmpretrain',
        f'{PREPARE}{BUILD}--no-binary mmcv mmcv==2.1.0',
    ),
    *(
        (
            dict(versions={'mmcv': '2.2.0'}, imports={module: error}),
            'imports',
            'error',
            f'{module} cannot be imported: not beside this mmcv',
            f'{REBUILD}2.1.0',
        )
        for module, error in {
            'mmdet': 'AssertionError: MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4, <2.2.0.',
            'mmseg': 'AssertionError: MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4.',
        }.items()
    ),
    (
        dict(imports={'mmcv': 'ImportError: libGL.so.1: cannot open shared object file: No such file or directory'}),
        'imports',
        'error',
        'mmcv cannot be imported: ImportError: libGL',
        'install the system library libGL.so.1',
    ),
    (
        dict(imports={'mmpretrain': "ModuleNotFoundError: No module named 'einops'"}),
        'imports',
        'error',
        'mmpretrain cannot be imported',
        'pip install mmpretrain==1.2.0',
    ),
    (
        dict(imports={'mmseg': 'no answer within 180 s'}),
        'imports',
        'error',
        'mmseg cannot be imported: no answer',
        'pip install --force-reinstall --no-deps --no-cache-dir mmsegmentation==1.2.2',
    ),
    (
        dict(versions=absent('mmdet'), imports={'mmdet': 'ImportError: x'}),
        'imports',
        'error',
        'mmdet cannot be imported: ImportError: x',
        'pip check',
    ),
    (
        dict(mmcv_cuda='not available', torch=H100, nvcc='13.0'),
        'mmcv_on_gpu',
        'warning',
        'compiled without CUDA',
        f'{REBUILD}2.1.0',
    ),
    (
        dict(mmcv_cuda='not available', torch=H100),
        'mmcv_on_gpu',
        'warning',
        'compiled without CUDA',
        f'install the CUDA 13.0 toolkit, then {REBUILD}2.1.0',
    ),
    (
        dict(
            versions={'setuptools': '82.0.0'},
            imports={'pkg_resources': "ModuleNotFoundError: No module named 'pkg_resources'"},
        ),
        'setuptools',
        'error',
        'setuptools 82.0.0: pkg_resources cannot be imported',
        'pip install "setuptools<82"',
    ),
    (
        dict(
            versions=absent('setuptools'),
            imports={'pkg_resources': "ModuleNotFoundError: No module named 'pkg_resources'"},
        ),
        'setuptools',
        'error',
        'no setuptools: pkg_resources cannot be imported',
        'pip install "setuptools<82"',
    ),
    (
        dict(versions={'onedl-mmengine': '0.10.12'}),
        'duplicates',
        'error',
        'mmengine and onedl-mmengine overwrite each other: both bring mmengine',
        'pip uninstall -y mmengine onedl-mmengine && pip install mmengine==0.10.7',
    ),
    (
        dict(versions=ON_FORKS['versions'] | {'mmdet': '3.3.0'}),
        'duplicates',
        'error',
        'mmdet and onedl-mmdetection overwrite each other',
        'pip uninstall -y mmdet onedl-mmdetection && pip install onedl-mmdetection==3.3.0',
    ),
    (
        dict(versions={'mmcv-lite': '2.1.0'}),
        'duplicates',
        'error',
        'mmcv and mmcv-lite overwrite each other',
        f'pip uninstall -y mmcv mmcv-lite && {PREPARE}{BUILD}--no-binary mmcv mmcv==2.1.0',
    ),
    (
        dict(versions={'opencv-python-headless': '4.12.0'}),
        'duplicates',
        'note',
        'opencv-python and opencv-python-headless overwrite each other',
        'pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python==5.0.0.93',
    ),
    (dict(versions=absent('ftfy')), 'segmentation', 'error', 'mmseg needs ftfy', 'pip install ftfy'),
    (
        dict(versions=absent('ftfy', 'regex')),
        'segmentation',
        'error',
        'mmseg needs ftfy and regex',
        'pip install ftfy regex',
    ),
    (
        dict(variables={'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD': '1'}),
        'safe_loading',
        'error',
        'checkpoints could run any code',
        'unset TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD',
    ),
    (
        dict(variables={'MMSPARX_SCAN_BACKEND': 'cuda'}),
        'scan_backend',
        'error',
        'MMSPARX_SCAN_BACKEND=cuda: unknown; expected auto, native or reference',
        'unset MMSPARX_SCAN_BACKEND',
    ),
    (
        dict(variables={'MMSPARX_SCAN_BACKEND': 'native'}, backends=without('it was not compiled: no C++ compiler')),
        'scan_backend',
        'error',
        'MMSPARX_SCAN_BACKEND=native: it cannot run here',
        'unset MMSPARX_SCAN_BACKEND',
    ),
    (
        dict(variables={'MMSPARX_CPU_INSTRUCTION_SET': 'avx512'}),
        'instruction_set',
        'warning',
        'MMSPARX_CPU_INSTRUCTION_SET=avx512 is unknown here.*: avx2, baseline',
        'unset MMSPARX_CPU_INSTRUCTION_SET',
    ),
    (
        dict(backends=without('it was compiled for torch 2.9.0, and this is torch 2.11.0; install mmsparx anew', True)),
        'compiled_scan',
        'warning',
        'in pure torch: it was compiled for torch 2.9.0, and this is torch 2.11.0$',
        'install mmsparx anew',
    ),
    (
        dict(backends=without('it was not compiled: no C++ compiler. Install one')),
        'compiled_scan',
        'note',
        r'in pure torch: it was not compiled: no C\+\+ compiler. Install one$',
        '',
    ),
    (
        dict(backends=without('it was not compiled'), compiler=None),
        'compiler',
        'note',
        r'no C\+\+ compiler; without it the scan stays in pure torch',
        'apt-get install g++',
    ),
    (
        dict(nvidia=True, torch=CPU),
        'gpu',
        'warning',
        r'torch 2.11.0\+cpu is a build without CUDA',
        'pip uninstall -y torch torchvision && pip install torch==2.11.0 "torchvision==0.26.*"',
    ),
    (
        dict(nvidia=True, variables={'CUDA_VISIBLE_DEVICES': ''}),
        'gpu',
        'note',
        'CUDA_VISIBLE_DEVICES= hides the GPU',
        'unset CUDA_VISIBLE_DEVICES',
    ),
    (
        dict(nvidia=True, variables={'CUDA_VISIBLE_DEVICES': '0'}),
        'gpu',
        'warning',
        'built for CUDA 13.0, cannot use the NVIDIA GPU: the driver is too old',
        'install a newer driver, or a torch for the CUDA version that `nvidia-smi` shows; docker run --gpus all',
    ),
    (
        dict(nvcc='12.8', torch=H100, nvidia=True),
        'cuda_toolkit',
        'warning',
        'nvcc 12.8 cannot compile extensions for a torch with CUDA 13.0',
        'export CUDA_HOME=/path/to/cuda-13',
    ),
    (dict(nvcc='12.8'), 'cuda_toolkit', 'note', 'nvcc 12.8', 'export CUDA_HOME=/path/to/cuda-13'),
    (dict(versions={'openmim': '0.3.9'}), 'openmim', 'note', 'do not `mim install`', 'pip uninstall -y openmim'),
]

HARMLESS = [
    {},
    dict(python='3.10.0'),
    dict(python='3.12.9'),
    dict(versions={'torch': '2.6.0', 'torchvision': '0.21.0'}),
    # What is not installed clashes with nothing.
    dict(**ONLY_TORCH),
    dict(**ONLY_TORCH, torch=H100, nvidia=True),
    dict(versions=absent('mmsegmentation', 'ftfy', 'regex'), imports=absent('mmseg')),
    dict(**ON_FORKS),
    # onedl-mmengine does without pkg_resources.
    dict(imports={'pkg_resources': "ModuleNotFoundError: No module named 'pkg_resources'"}, **ON_FORKS),
    dict(variables={'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD': '', 'MMSPARX_SCAN_BACKEND': 'auto'}),
    dict(variables={'MMSPARX_SCAN_BACKEND': 'native', 'MMSPARX_CPU_INSTRUCTION_SET': 'baseline'}),
    dict(variables={'MMSPARX_SCAN_BACKEND': 'native'}, backends=ROWS_ON_GPU, torch=H100, nvidia=True, nvcc='13.0'),
    dict(variables={'CUDA_VISIBLE_DEVICES': ''}),
    dict(mmcv_cuda='not available'),
    dict(compiler=None),
    dict(nvcc='13.1'),
    dict(nvcc='12.8', torch=CPU),
]


@pytest.mark.parametrize(('changes', 'check', 'status', 'found', 'mend'), CLASHES)
def test_a_clash_is_recognised(changes, check, status, found, mend):
    findings = {finding.name: finding for finding in find_clashes(environment(**changes)) if finding.status != 'ok'}
    finding = findings.pop(check)
    assert (finding.status, finding.mend) == (status, mend)
    assert re.search(found, finding.found), finding.found
    # What follows from the same cause.
    assert findings.keys() <= {'compiled_scan', 'compiler'}


@pytest.mark.parametrize('changes', HARMLESS)
def test_what_is_no_clash_is_not_reported(changes):
    findings = find_clashes(environment(**changes))
    assert [finding for finding in findings if finding.status != 'ok'] == []
    assert [finding.name for finding in findings] == [check.__name__ for check in CHECKS]


def test_every_check_has_a_clash_here():
    assert {check for _, check, *_ in CLASHES} == {check.__name__ for check in CHECKS}
    assert {status for _, _, status, *_ in CLASHES} < set(STATUSES)


def test_several_clashes_are_all_reported():
    error = 'AssertionError: MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4.'
    env = environment(imports={'mmcv.ops': SYMBOL, 'mmseg': error}, versions={'openmim': '0.3.9'})
    bad = [(finding.name, finding.status) for finding in find_clashes(env) if finding.status != 'ok']
    assert bad == [('imports', 'error'), ('imports', 'error'), ('openmim', 'note')]


def test_the_versions_are_those_that_are_tested():
    pinned = (Path(__file__).parents[2] / 'constraints.txt').read_text().splitlines()
    for name in ('torch', 'mmcv'):
        assert f'{name}=={TESTED[name]}' in pinned


def test_the_variables_are_those_of_the_scan():
    assert {backends.VARIABLE, native.VARIABLE} < set(VARIABLES)
