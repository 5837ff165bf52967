"""Imports run one way, and each layer needs no more than it says."""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'mmsparx'

# Per layer: the layers of mmsparx that it may import, and the distributions outside the standard
# library (None: any; what is not installed everywhere is imported where it is used).
LAYERS = {
    '__init__': ({'models', 'timm_hook', 'version'}, set()),  # models when it is asked for
    'version': (set(), set()),
    'ops': (set(), {'torch', 'triton'}),  # triton where it is used alone
    'registry': (set(), {'mmengine'}),
    'weights': (set(), {'torch', 'numpy', 'mmengine', 'safetensors'}),
    'layers': ({'ops', 'registry'}, {'torch'}),
    'models': ({'layers', 'ops', 'registry', 'weights'}, {'torch', 'mmengine', 'mmpretrain'}),
    'timm_hook': ({'timm'}, set()),
    'timm': ({'models', 'weights'}, {'torch', 'timm'}),
    'analysis': ({'ops'}, None),
    'datasets': ({'registry', 'weights'}, None),
    'doctor': ({'ops', 'version'}, {'torch'}),
    'zoo': ({'version'}, {'mmengine'}),
    '__main__': ({'doctor', 'zoo'}, set()),
    'engine': ({'analysis', 'models', 'layers', 'ops', 'registry', 'weights', 'version', 'zoo'}, None),
}
# What lies beside the package in the repository; it is not there once the package is installed.
NOT_INSTALLED = {'benchmarks', 'configs', 'demo', 'tests', 'tools'}


def imported_names(node):
    """The modules that a node imports, by `import`, `from` or a literal `import_module`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        # `from mmsparx import ops` imports mmsparx.ops.
        names = [alias.name for alias in node.names] if node.module == 'mmsparx' else []
        return [f'mmsparx.{name}' for name in names] or [node.module or '']
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', None)
        if called in ('import_module', '__import__'):
            return [str(node.args[0].value)]
    return []


def violations(package):
    """What is wrong in the files of a package, each as 'file:line: what'."""
    found = []
    for path in sorted(package.rglob('*.py')):
        place = path.relative_to(package)
        layer = place.parts[0].removesuffix('.py')
        if layer not in LAYERS:
            found.append(f'{path}:1: {layer} is in no layer; give it a row in LAYERS of {Path(__file__).name}')
            continue
        inside, outside = LAYERS[layer]
        for node in ast.walk(ast.parse(path.read_text(), path)):
            for name in imported_names(node):
                top, _, rest = name.partition('.')
                target = rest.partition('.')[0]
                if isinstance(node, ast.ImportFrom) and node.level:
                    problem = 'relative import; write the whole name'
                elif top in NOT_INSTALLED:
                    problem = f'imports {name}, which is not part of the package'
                elif top == 'mmsparx' and target != layer and target not in inside:
                    problem = f'{layer} imports {name}; it may import {", ".join(sorted(inside)) or "no other layer"}'
                elif top != 'mmsparx' and outside is not None and top not in outside | sys.stdlib_module_names:
                    problem = f'{layer} imports {name}; it may need {", ".join(sorted(outside)) or "nothing"}'
                else:
                    continue
                found.append(f'{path}:{node.lineno}: {problem}')
            if isinstance(node, ast.ImportFrom) and any(alias.name == '*' for alias in node.names):
                found.append(f'{path}:{node.lineno}: star import')
            if isinstance(node, ast.Attribute) and node.attr == 'path' and getattr(node.value, 'id', None) == 'sys':
                found.append(f'{path}:{node.lineno}: sys.path')
    return found


def test_imports_run_one_way():
    found = violations(PACKAGE)
    assert not found, '\n'.join(['imports that run the wrong way:', *found])


@pytest.mark.parametrize(
    ('file', 'source', 'message'),
    [
        ('ops/scan.py', 'import torch\n\n\ndef f():\n    from mmsparx.layers import norm', 'scan.py:5: ops imports'),
        ('ops/scan.py', 'import numpy', 'scan.py:1: ops imports numpy'),
        ('ops/scan.py', 'from mmsparx import registry', 'scan.py:1: ops imports mmsparx.registry'),
        (
            'ops/scan.py',
            'from importlib import import_module\nimport_module("mmsparx.models")',
            'scan.py:2: ops imports',
        ),
        ('registry.py', 'import mmsparx.models', 'registry.py:1: registry imports mmsparx.models'),
        ('layers/norm.py', 'from mmcv.cnn import build_norm_layer', 'norm.py:1: layers imports mmcv.cnn'),
        ('models/net.py', 'from .parts import Block', 'net.py:1: relative import'),
        ('models/net.py', 'from . import parts', 'net.py:1: relative import'),
        ('models/net.py', 'from torch import *', 'net.py:1: star import'),
        ('models/net.py', 'import mmsparx.engine', 'net.py:1: models imports mmsparx.engine'),
        ('analysis/erf.py', 'import mmsparx.models', 'erf.py:1: analysis imports mmsparx.models'),
        ('engine/hooks.py', 'from tools.train import main', 'hooks.py:1: imports tools.train'),
        ('engine/hooks.py', 'import sys\nsys.path.insert(0, "..")', 'hooks.py:2: sys.path'),
        ('__init__.py', 'from mmsparx import ops', '__init__.py:1: __init__ imports mmsparx.ops'),
        ('garden/net.py', '', 'net.py:1: garden is in no layer'),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, source, message):
    planted = tmp_path / file
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(source)
    (found,) = violations(tmp_path)
    assert message in found


def test_what_is_allowed_is_not_reported(tmp_path):
    (tmp_path / 'models').mkdir()
    allowed = ('import math', 'import torch.nn', 'from mmengine.model import BaseModule', 'import mmsparx.models.x')
    (tmp_path / 'models' / 'net.py').write_text('\n'.join([*allowed, 'from mmsparx.ops import selective_scan']))
    assert violations(tmp_path) == []


# Runs first in the child: packages that are not to be had, as on a machine that lacks them, and
# warnings collected with the file that they name.
CHILD = """
import sys, warnings

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {blocked!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}} (blocked by this test)', name=name)

sys.meta_path.insert(0, Blocked())
warnings.simplefilter('ignore')
{before}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
{code}
ours = [w for w in caught if {package!r} in w.filename or 'mmsparx' in str(w.message)]
if ours:
    sys.exit('warnings of our own: ' + '; '.join(map(str, ours)))
"""
OPENMMLAB = {'mmcv', 'mmdet', 'mmseg', 'mmpretrain'}


def run_child(code, blocked, before='', cwd=None):
    source = CHILD.format(
        blocked=blocked, before=before, code=textwrap.indent(textwrap.dedent(code), '    '), package=str(PACKAGE)
    )
    return subprocess.run(
        # Isolated from PYTHON* variables and the working directory; without site-packages' own
        # chatter. The package is found where the test found it.
        [sys.executable, '-I', '-c', f'import sys\nsys.path.insert(0, {str(PACKAGE.parent)!r})\n{source}'],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


def test_ops_need_torch_alone(tmp_path):
    code = """
        from mmsparx.ops import cross_merge, cross_scan, selective_scan
        u = torch.ones(1, 2, 5, requires_grad=True)
        B = torch.ones(1, 1, 3, 5)
        selective_scan(u, u, -torch.ones(2, 3), B, B, delta_softplus=True).sum().backward()
        assert u.grad.isfinite().all()
        assert cross_merge(cross_scan(torch.ones(1, 1, 2, 3)), 2, 3).eq(4).all()
    """
    blocked = {*OPENMMLAB, 'mmengine', 'timm', 'numpy', 'torchvision', 'cv2'}
    child = run_child(code, blocked, before='import torch', cwd=tmp_path)
    assert (child.returncode, child.stdout, child.stderr) == (0, '', '')


def test_models_need_mmengine_alone(tmp_path):
    pytest.importorskip('mmengine')
    code = """
        import mmsparx.models
        from mmsparx.registry import MODELS
        assert MODELS.get('mmsparx.SparXMamba') is mmsparx.models.SparXMamba
    """
    child = run_child(code, {*OPENMMLAB, 'timm', 'torchvision'}, cwd=tmp_path)
    assert (child.returncode, child.stdout, child.stderr) == (0, '', '')


def test_the_package_itself_needs_nothing(tmp_path):
    child = run_child('import mmsparx\nassert mmsparx.__version__', {'torch', 'mmengine', 'numpy'}, cwd=tmp_path)
    assert (child.returncode, child.stdout, child.stderr) == (0, '', '')


def test_models_without_mmengine_say_what_to_install(tmp_path):
    child = run_child('import mmsparx.models', {'mmengine'}, cwd=tmp_path)
    assert child.returncode != 0
    assert "pip install 'mmsparx[mmengine]'" in child.stderr


def test_a_warning_of_our_own_is_noticed(tmp_path):
    child = run_child('warnings.warn("mmsparx: told")', set(), cwd=tmp_path)
    assert 'warnings of our own' in child.stderr


def test_no_two_test_files_have_one_name():
    """pytest would import one of them for both, and stop, in a run of both alone."""
    names = [path.name for path in Path(__file__).parent.rglob('test_*.py')]
    assert sorted(set(names)) == sorted(names)
