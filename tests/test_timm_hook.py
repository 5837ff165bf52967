"""When the networks are registered with timm; processes of their own, since it is importing that is tested."""

import subprocess
import sys
import textwrap

import pytest


def python(*arguments, folder):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder)


def test_scripts_of_timm_find_it(tmp_path):
    pytest.importorskip('timm', reason='its scripts import it')
    script = tmp_path / 'train.py'
    script.write_text('import sys, timm\nprint(__name__, timm.is_model(sys.argv[2]), sys.argv[1:])')
    ran = python('-m', 'mmsparx.timm', 'train.py', '--model', 'sparx_mamba_tiny', folder=tmp_path)
    assert ran.stdout == "__main__ True ['--model', 'sparx_mamba_tiny']\n", ran.stderr
    assert python('-m', 'mmsparx.timm', folder=tmp_path).stderr.startswith('usage: python -m mmsparx.timm SCRIPT.py')


def test_timm_is_not_imported_unasked(tmp_path):
    pytest.importorskip('mmengine', reason='mmsparx.models needs it')
    code = "import sys, mmsparx.models\nsys.exit(str({'timm', 'mmpretrain', 'mmsparx.timm'} & set(sys.modules)))"
    assert python('-c', code, folder=tmp_path).stderr == 'set()\n'


@pytest.mark.parametrize('first', ['timm', 'mmsparx.timm_hook'])
def test_whichever_is_imported_first(tmp_path, first):
    """Without the packages themselves: an older timm, which lacks what is needed, is told of and still imported."""
    (tmp_path / 'timm/models').mkdir(parents=True)
    (tmp_path / 'timm/__init__.py').write_text('from timm import models')
    (tmp_path / 'timm/models/__init__.py').write_text('is_old = True')
    code = f"""
        import importlib.util
        import {first}
        from mmsparx.timm_hook import register_with_timm
        register_with_timm()
        assert importlib.util.find_spec('timm').name == 'timm'
        import timm
        assert timm.models.is_old
    """
    ran = python('-c', textwrap.dedent(code), folder=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("UserWarning: mmsparx's networks are not registered with timm, which needs 1.0") == 1
