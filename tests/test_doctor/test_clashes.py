"""Every clash is recognised, with the command that fixes it, and nothing else is."""

import re
import subprocess
from pathlib import Path

import pytest
from helpers.fresh import FreshEnvironment, installed_wheel, stub_sdist, stub_wheel

from mmsparx.doctor.clashes import CHECKS, STATUSES, TESTED, find_clashes
from mmsparx.doctor.environment import VARIABLES, Environment
from mmsparx.ops import native
from mmsparx.ops.selective_scan import backends

PARTS = tuple(f'{name}.{part}' for name in ('mmdet', 'mmseg', 'mmpretrain') for part in ('models', 'datasets'))
MODULES = ('torch', 'mmsparx.ops', 'torchvision', 'mmengine', 'pkg_resources', 'mmsparx.models', 'mmcv', 'mmcv.ops')
VERSIONS = {
    'torch': '2.11.0',
    'torchvision': '0.26.0',
    'mmengine': '0.10.7',
    'mmcv': '2.1.0',
    'mmdet': '3.3.0',
    'mmsegmentation': '1.2.2',
    'mmpretrain': '1.2.0',
    'ftfy': '6.3.1',
    'regex': '2026.11.15',
}
FORKS = {'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6', 'mmengine': None, 'mmcv': None}
CUDA = {'version': '2.11.0+cu130', 'cuda': '13.0', 'gpus': [], 'ort_library': None}
CPU = {'version': '2.11.0+cpu', 'cuda': None, 'gpus': [], 'ort_library': None}
H100 = CUDA | {'gpus': [{'name': 'NVIDIA H100', 'capability': '9.0', 'memory_gib': 79.6}]}
TORCH = 'pip uninstall -y torch torchvision && pip install torch==2.11.0 "torchvision==0.26.*"'
BUILD = (
    'pip install "setuptools<82" wheel ninja psutil && MMCV_WITH_OPS=1 CFLAGS="-g0 -w" pip install --no-cache-dir '
    '--no-build-isolation --no-binary {0} {0}=={1}'
).format
MMCV = f'pip uninstall -y mmcv && {BUILD("mmcv", "2.1.0")}'
SYMBOL = 'ImportError: /path/to/mmcv/_ext.so: undefined symbol: _ZN3c105ErrorE'
NO_TORCH = "ModuleNotFoundError: No module named 'torch'"
NO_MMCV = "ModuleNotFoundError: No module named 'mmcv'"
NO_OPERATORS = "ModuleNotFoundError: No module named 'mmcv._ext'"
INCOMPATIBLE = 'AssertionError: MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4. (in mmseg)'
BLIP = 'TypeError: NoneType takes no arguments (in mmpretrain.models.multimodal.blip.language_model)'
BLIPPED = dict.fromkeys(('mmdet.models', 'mmseg.models', 'mmpretrain.models'), BLIP)


def row(name, device, instruction_set=None, missing=None, fix='', lost=False):
    row = dict(name=name, device=device, instruction_set=instruction_set, in_use=False)
    return row | dict(missing=missing, fix=fix, lost=lost)


REFERENCE = row('reference', 'cpu')
ROWS = [row('native', 'cpu', 'avx2'), row('native', 'cpu', 'baseline'), REFERENCE]


def missing(lost=False):
    return [row('native', 'cpu', missing='it was not compiled', fix='pip install .', lost=lost), REFERENCE]


def environment(versions=None, imports=None, **others):
    """A healthy environment with these changes; a version of None takes away what is installed."""
    merged = {name: version for name, version in (VERSIONS | (versions or {})).items() if version}
    tried = dict.fromkeys((*MODULES, *PARTS)) | (imports or {})
    known = dict(python='3.11.9', torch=CUDA, backends=ROWS, mmcv_cuda='13.0')
    return Environment(versions=merged, imports=tried, **(known | others))


def test_the_installation_page_compiles_mmcv_by_the_same_command():
    page = (Path(__file__).parents[2] / 'docs/install.md').read_text()
    for command in BUILD('mmcv', TESTED['mmcv']).split(' && '):
        assert f'    {command}\n' in page


def variable(name, value):
    return dict(variables={name: value})


CLASHES = [
    # changes, check, status, found, fix
    (dict(python='3.13.1'), 'python_version', 'note', 'Python 3.13.1', 'python3.12 -m venv .venv'),
    (dict(versions={'torch': '2.3.1'}), 'torch_version', 'error', '2.3.1 is untested; tested are 2.4 to 2.11', TORCH),
    (dict(versions={'torch': '2.12.0'}), 'torch_version', 'warning', 'torch 2.12.0 is untested', TORCH),
    (
        dict(versions={'torch': '2.5.1'}),
        'torch_version',
        'note',
        'loads checkpoints weights-only only if asked to',
        'export TORCH_FORCE_WEIGHTS_ONLY_LOAD=1',
    ),
    (
        dict(imports={'torchvision': 'RuntimeError: operator torchvision::nms does not exist'}, torch=CPU),
        'imports',
        'error',
        'torchvision cannot be imported: it does not belong to this torch: ',
        'pip install --force-reinstall --no-deps "torchvision==0.26.*" --index-url https://download.pytorch.org/whl/cpu',
    ),
    (
        dict(
            imports=dict.fromkeys(('torch', 'mmsparx.ops', 'mmcv.ops'), NO_TORCH), versions={'torch': None}, torch=None
        ),
        'imports',
        'error',
        "torch cannot be imported: .*'torch'; for the same reason: mmsparx.ops, mmcv.ops$",
        TORCH.partition('&& ')[2],
    ),
    (
        dict(imports={'mmcv.ops': SYMBOL, 'mmdet.models': SYMBOL}),
        'imports',
        'error',
        'mmcv.ops cannot be imported: it was compiled for another torch: .*: mmdet.models$',
        MMCV,
    ),
    (
        dict(imports={'mmcv.ops': SYMBOL}, versions=FORKS),
        'imports',
        'error',
        'it was compiled for another torch',
        f'pip uninstall -y onedl-mmcv && {BUILD("onedl-mmcv", "2.3.6")}',
    ),
    (dict(imports={'mmcv.ops': NO_OPERATORS}), 'imports', 'error', 'needs mmcv with compiled operators', MMCV),
    (
        dict(versions={'mmcv': None}, imports=dict.fromkeys(PARTS, NO_MMCV)),
        'imports',
        'error',
        'mmdet.models cannot be imported: it needs mmcv .*: mmdet.datasets, ',
        BUILD('mmcv', '2.1.0'),
    ),
    (
        dict(versions={'mmcv': '2.2.0'}, imports={'mmseg.models': INCOMPATIBLE}),
        'imports',
        'error',
        'mmseg.models cannot be imported: not beside this mmcv',
        MMCV,
    ),
    (
        dict(imports=BLIPPED, versions={'transformers': '5.24.0'}),
        'imports',
        'error',
        r'import their multimodal .* its version 5\.24\.0; .*TypeError: .*: mmseg.models, mmpretrain.models$',
        'pip uninstall -y transformers',
    ),
    (
        dict(imports={'mmcv': 'ImportError: libGL.so.1: cannot open shared object file: No such file or directory'}),
        'imports',
        'error',
        'mmcv cannot be imported: ImportError: libGL',
        'install the system library libGL.so.1',
    ),
    (
        dict(imports={'mmpretrain.models': "ModuleNotFoundError: No module named 'einops.layers'"}),
        'imports',
        'error',
        'mmpretrain.models cannot be imported',
        'pip install einops',
    ),
    (
        dict(imports={'mmseg.models': 'no answer within 180 s'}),
        'imports',
        'error',
        'mmseg.models cannot be imported: no answer',
        'pip install --force-reinstall --no-deps mmsegmentation==1.2.2',
    ),
    (dict(mmcv_cuda='not available', torch=H100), 'mmcv_on_gpu', 'warning', 'needs the CUDA 13.0 toolkit', MMCV),
    (
        dict(imports={'pkg_resources': "ModuleNotFoundError: No module named 'pkg_resources'"}),
        'setuptools',
        'error',
        'pkg_resources cannot be imported',
        'pip install "setuptools<82"',
    ),
    (
        dict(versions={'onedl-mmdetection': '3.5.1'}),
        'duplicates',
        'error',
        'mmdet and onedl-mmdetection overwrite each other: both bring mmdet',
        'pip uninstall -y mmdet onedl-mmdetection && pip install mmdet==3.3.0',
    ),
    (
        dict(versions={'mmcv-lite': '2.1.0'}),
        'duplicates',
        'error',
        'mmcv and mmcv-lite overwrite each other',
        f'pip uninstall -y mmcv mmcv-lite && {BUILD("mmcv", "2.1.0")}',
    ),
    (
        dict(versions={'ftfy': None, 'regex': None}),
        'segmentation',
        'error',
        'mmseg needs ftfy and regex',
        'pip install ftfy regex',
    ),
    *(
        (variable(name, value), 'variables', status, found, f'unset {name}')
        for name, value, status, found in (
            ('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1', 'error', 'checkpoints could run any code'),
            ('MMSPARX_SCAN_BACKEND', 'cuda', 'error', 'cuda is unknown; expected one of: native, reference'),
            ('MMSPARX_SCAN_BACKEND', 'reference', 'note', 'reference chooses it, in place of the fastest'),
            ('MMSPARX_CPU_INSTRUCTION_SET', 'avx512', 'error', 'avx512 is unknown; expected one of: avx2, baseline'),
            ('MMSPARX_CPU_INSTRUCTION_SET', 'baseline', 'note', 'baseline chooses it'),
        )
    ),
    (dict(backends=missing()), 'compiled_scan', 'note', 'scans on cpu run without .* not compiled', 'pip install .'),
    (dict(backends=missing(lost=True)), 'compiled_scan', 'warning', 'not compiled', 'pip install .'),
    (dict(nvidia=True, torch=CPU), 'gpu', 'warning', r'torch 2.11.0\+cpu is a build without CUDA', TORCH),
    (
        dict(nvidia=True, **variable('CUDA_VISIBLE_DEVICES', '')),
        'gpu',
        'note',
        'CUDA_VISIBLE_DEVICES hides the GPU',
        'unset CUDA_VISIBLE_DEVICES',
    ),
    (
        dict(nvidia=True),
        'gpu',
        'warning',
        'built for CUDA 13.0, cannot use the NVIDIA GPU',
        'install a newer driver, or a torch for the CUDA version that nvidia-smi shows; docker run --gpus all',
    ),
]

HARMLESS = [
    {},
    dict(versions={'torch': '2.6.0'}),
    dict(versions=FORKS, imports={'pkg_resources': 'ModuleNotFoundError'}),
    dict(versions={'transformers': '5.24.0'}),
    dict(variables={'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD': '', 'MMSPARX_SCAN_BACKEND': 'auto'}),
    dict(mmcv_cuda='not available', **variable('CUDA_VISIBLE_DEVICES', '')),
    dict(nvidia=True, torch=H100),
]


@pytest.mark.parametrize(('changes', 'check', 'status', 'found', 'fix'), CLASHES)
def test_a_clash_is_recognised(changes, check, status, found, fix):
    (finding,) = (finding for finding in find_clashes(environment(**changes)) if finding.status != 'ok')
    assert (finding.name, finding.status, finding.fix) == (check, status, fix)
    assert re.search(found, finding.found), finding.found


@pytest.mark.parametrize('changes', HARMLESS)
def test_other_changes_are_not_reported(changes):
    findings = [(finding.name, finding.status, finding.found) for finding in find_clashes(environment(**changes))]
    assert findings == [(check.__name__, 'ok', '') for check in CHECKS]


def test_classification_does_without_operators():
    env = Environment(imports={'mmcv.ops': NO_OPERATORS, 'mmpretrain.models': None})
    assert [finding.status for finding in find_clashes(env) if finding.name == 'imports'] == ['note']


def test_the_tables_are_whole():
    assert {check for _, check, *_ in CLASHES} == {check.__name__ for check in CHECKS}
    assert {status for _, _, status, *_ in CLASHES} < set(STATUSES)
    pinned = (Path(__file__).parents[2] / 'constraints.txt').read_text().splitlines()
    assert {f'{name}=={TESTED[name]}' for name in ('torch', 'mmcv')} < set(pinned)
    assert {backends.VARIABLE, native.VARIABLE} < set(VARIABLES)


def test_every_command_runs(tmp_path):
    """They run in an empty environment, with an index of stand-ins."""
    index = tmp_path / 'index'
    index.mkdir()
    stands_in = VERSIONS | {'torch': '2.11.0', 'einops': '0.8.2', 'ninja': '1.13.2', 'psutil': '7.2.2'}
    for name, version in stands_in.items():
        stub_wheel(index, name, version)
    for name in ('mmcv', 'onedl-mmcv'):
        stub_sdist(index, name, TESTED[name])
    for name in ('setuptools', 'wheel', 'packaging'):
        installed_wheel(index, name)
    fixes = [fix for *_, fix in CLASHES if re.match('pip install [^.]|pip uninstall', fix)]
    commands = {}  # commands that only differ in names run once
    for part in ' && '.join(fixes).split(' && '):
        options = tuple(word for word in part.split() if word.startswith('-') or word.isupper())
        commands.setdefault(options or part, part)
    fresh = FreshEnvironment(tmp_path / 'fresh', index)
    done = fresh.run(' && '.join(commands.values()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {'torch', 'torchvision', 'mmdet', 'mmsegmentation', 'einops', 'ftfy', 'regex', 'mmcv'} <= fresh.installed()
    shell = [fix for *_, fix in CLASHES if re.match('unset|export', fix)]
    assert subprocess.run(['sh', '-ec', '\n'.join(shell)]).returncode == 0
