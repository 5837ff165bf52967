"""Imports run one way, and each layer needs only the packages that it declares."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'mmsparx'


@pytest.fixture
def check(tmp_path):
    """Checks a copy of the package against the contracts of pyproject.toml; returns the exit status and the report."""
    pytest.importorskip('importlinter', reason='it checks the imports')
    shutil.copytree(PACKAGE, tmp_path / 'mmsparx', ignore=shutil.ignore_patterns('__pycache__', '*.so'))
    shutil.copy(PACKAGE.parent / 'pyproject.toml', tmp_path)
    code = 'from importlinter.cli import lint_imports_command; lint_imports_command()'

    def check():
        command = [sys.executable, '-c', code, '--no-cache']
        environment = {**os.environ, 'COLUMNS': '200'}  # a contract's name and verdict on one line
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout + done.stderr

    return check


def test_imports_keep_to_the_contracts(check):
    status, report = check()
    assert status == 0, report


@pytest.mark.parametrize(
    ('file', 'source', 'contract'),
    [
        ('ops/scan.py', 'def f():\n    from mmsparx.layers import norm', 'Imports run one way'),
        ('ops/scan.py', 'from mmsparx import registry', 'Imports run one way'),
        ('registry.py', 'import mmsparx.weights', 'Imports run one way'),
        ('garden.py', '', 'Imports run one way'),  # the order does not have it
        ('weights/net.py', 'import mmsparx.models', 'Imports run one way'),
        ('models/net.py', 'import mmsparx.engine', 'Imports run one way'),
        ('hub/net.py', 'import mmsparx.models', 'Imports run one way'),
        ('ops/scan.py', 'import numpy', 'The operators need torch alone'),
        ('analysis/erf.py', 'import mmsparx.registry', 'The analysis knows the operators alone'),
        ('zoo/cards.py', 'import mmsparx.ops', 'The zoo knows the version alone'),
        ('doctor/cure.py', 'import mmsparx.zoo', 'The doctor knows the operators and the version alone'),
        ('layers/norms.py', 'from mmcv.cnn import build_norm_layer', 'The layers need torch alone'),
        ('models/net.py', 'import mmdet', 'The networks need mmengine alone'),
        ('engine/hooks/more.py', 'from tools.train import main', 'The package needs nothing of the repository'),
    ],
)
def test_a_planted_import_breaks_a_contract(check, tmp_path, file, source, contract):
    (tmp_path / 'mmsparx' / file).write_text(source)
    status, report = check()
    assert status == 1, report
    assert [line for line in report.splitlines() if line.startswith(contract) and 'BROKEN' in line], report


# This runs first in the child process: it hides packages, as on a machine that lacks them, and collects warnings with
# the file that they name.
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
        # The child is isolated from PYTHON* variables and the working directory, and has no messages of site-packages.
        # It finds the package where the test found it.
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
        assert 'huggingface_hub' not in sys.modules  # for repositories alone
        try:
            from mmsparx.models.heads import SparXClsHead
        except ModuleNotFoundError as error:
            assert error.name == 'mmpretrain'
    """
    child = run_child(code, {*OPENMMLAB, 'timm', 'torchvision', 'safetensors'}, cwd=tmp_path)
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


def test_no_two_test_files_have_the_same_name():
    """pytest would import one of them for both and stop, in a run of these two files only."""
    names = [path.name for path in Path(__file__).parent.rglob('test_*.py')]
    assert sorted(set(names)) == sorted(names)
