"""The backbone by name in the registries of mmengine and the libraries on top of it."""

import importlib.util
import subprocess
import sys

import pytest
from helpers import SMALL_ARCH
from helpers.configs import build, library_config
from mmengine.registry import MODELS as ROOT_MODELS

from mmsparx.layers.mixers import SS2D
from mmsparx.models import SparXMamba, SparXSwin, VMamba
from mmsparx.registry import MODELS, TOKEN_MIXERS, lookup, register_backbone

# The process builds `type='mmsparx.SparXMamba'` in a library's scope without an import of mmsparx, then the bare name,
# which is known once mmsparx.models is imported: the first build does that.
CODE = """
import sys
from {library}.registry import MODELS
assert not any(name.split('.')[0] == 'mmsparx' for name in sys.modules)
cfg = dict(arch={arch!r}, out_indices=(3,), token_mixer=dict(type='SS2D'), norm_cfg=dict(type='BN'))
named = MODELS.build(dict(type='mmsparx.SparXMamba', **cfg))
bare = MODELS.build(dict(type='SparXMamba', **cfg))
assert type(named) is type(bare)
print(type(bare).__module__, len(bare.stages))
"""


@pytest.mark.parametrize('library', ['mmengine', 'mmdet', 'mmseg', 'mmpretrain'])
def test_by_name_in_a_fresh_process(library):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f'{library} is not installed')
    code = CODE.format(library=library, arch=SMALL_ARCH)
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == 'mmsparx.models.backbones.sparx_mamba 4'
    # mmengine logs this when it has to look in another library's scope.
    assert 'Failed to search registry' not in result.stdout + result.stderr


def test_the_bare_name_is_known_in_the_tools():
    """They import the engine, and with it the networks."""
    code = f"""
import mmsparx.engine
from mmengine.registry import MODELS
MODELS.build(dict(type='SparXMamba', arch={SMALL_ARCH!r}))
"""
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_lookup_takes_a_class_and_its_path():
    """A pure-Python config holds them, before and after it is dumped."""
    assert lookup(TOKEN_MIXERS, SS2D) is SS2D
    assert lookup(TOKEN_MIXERS, 'mmsparx.layers.mixers.SS2D') is SS2D
    with pytest.raises(ValueError, match=r"unknown token mixer 'mmsparx\.layers\.mixers'; known ones: .*SS2D"):
        lookup(TOKEN_MIXERS, 'mmsparx.layers.mixers')


@pytest.mark.parametrize('base', ['upernet_r50', 'fpn_r50', 'deeplabv3plus_r50-d8'])
def test_pretrained_weights_of_a_base_config(base):
    """mmseg's base configs name those of a ResNet, which a segmenter passes on to any backbone."""
    mmseg = pytest.importorskip('mmseg')
    cfg = library_config(mmseg, f'_base_/models/{base}.py')
    cfg.default_scope = 'mmseg'
    cfg.model.backbone = dict(type='mmsparx.SparXMamba', arch=SMALL_ARCH)
    with pytest.raises(ValueError, match=r"got pretrained='open-mmlab://resnet50_v1c'\. .* set model\.pretrained=None"):
        build(cfg)
    assert cfg.model.backbone.pop('pretrained')  # mmseg has written it
    cfg.model.pretrained = None
    assert type(build(cfg).backbone).__name__ == 'SparXMamba'


@pytest.mark.parametrize('family', [SparXMamba, SparXSwin, VMamba])
def test_pretrained_weights_are_given_as_init_cfg_alone(family):
    for pretrained in ('weights.pth', True):
        with pytest.raises(ValueError, match=rf'^{family.__name__}: .* init_cfg=dict\(type=.* got pretrained='):
            family(SMALL_ARCH, pretrained=pretrained)
    family(SMALL_ARCH, pretrained=None)


def test_a_bare_name_that_another_package_has_taken(monkeypatch):
    """The other package keeps it, and `mmsparx.Name` is ours."""
    monkeypatch.setattr(ROOT_MODELS, '_module_dict', dict(ROOT_MODELS.module_dict))
    monkeypatch.setattr(MODELS, '_module_dict', dict(MODELS.module_dict))
    others = type('Taken', (), {'__module__': 'other.plugin'})
    ours = type('Taken', (), {})
    ROOT_MODELS.register_module(module=others)
    with pytest.warns(UserWarning, match=r"has a Taken of other\.plugin, .* write type='mmsparx\.Taken'"):
        register_backbone(ours)
    assert (ROOT_MODELS.get('Taken'), ROOT_MODELS.get('mmsparx.Taken')) == (others, ours)
