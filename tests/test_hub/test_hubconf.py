"""torch.hub's entry points of a clone."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from helpers import SMALL_ARCH
from helpers.weights import assert_loaded, published_classifier

from mmsparx.models import SparXMamba, SparXSwin, VMamba
from mmsparx.models.architecture import Architecture

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / 'hubconf.py').is_file(), reason='needs the repository')
FAMILIES = {'sparx_mamba': SparXMamba, 'sparx_swin': SparXSwin, 'vmamba': VMamba}
NAMES = {f'{prefix}_{arch}': (cls, arch) for prefix, cls in FAMILIES.items() for arch in cls.ARCHITECTURES}


def load(name, **options):
    return torch.hub.load(str(ROOT), name, source='local', **options)


def entries():
    """Entry points that torch.hub.list would find; it does not take local folders."""
    module = runpy.run_path(str(ROOT / 'hubconf.py'))
    return {name: x for name, x in module.items() if callable(x) and not name.startswith('_')}


def test_all_networks_are_entries_and_nothing_else():
    assert entries().keys() == NAMES.keys()


@pytest.mark.parametrize('name', NAMES)
def test_an_entry(name):
    family, arch = NAMES[name]
    with torch.device('meta'):
        model = load(name)
    assert type(model.backbone) is family
    assert model.backbone.arch == family.ARCHITECTURES[arch]
    size = sum(p.numel() for p in model.parameters()) / 1e6
    assert f'{size:.1f} M parameters' in entries()[name].__doc__


def test_it_leaves_the_path_as_it_is():
    before = list(sys.path)
    with torch.device('meta'):
        load('sparx_mamba_tiny', pretrained=False)
    assert sys.path == before


class TestPretrained:
    @pytest.fixture(autouse=True)
    def _published(self, monkeypatch, save):
        """A small network's file in place of the authors'."""
        for family in (SparXMamba, SparXSwin):
            monkeypatch.setitem(family.ARCHITECTURES, 'tiny', Architecture.of(SMALL_ARCH, {}))
        published = published_classifier()
        shapes = {'classifier.3.weight': (1000, 32), 'classifier.3.bias': (1000,)}
        published |= {name: torch.ones(shape) for name, shape in shapes.items()}
        path = save(published)
        entries = {'sparx_mamba_t_in1k': {'Weights': path}, 'sparx_swin_t_in1k': {}}
        monkeypatch.setattr('mmsparx.hub.names.read_models', lambda task: entries)

    def test_all_of_it(self):
        model = load('sparx_mamba_tiny', pretrained=True)
        assert_loaded(model.backbone, published_classifier())
        assert model.head.fc.weight.eq(1).all()

    def test_other_classes_and_channels(self):
        model = load('sparx_mamba_tiny', pretrained=True, num_classes=7, in_channels=1, drop_path_rate=0.1)
        weight = published_classifier()['patch_embed.0.weight'].sum(1, keepdim=True)
        torch.testing.assert_close(model.backbone.stem[0].weight, weight)
        assert model.head.fc.bias.eq(0).all()

    def test_where_none_are_published(self):
        with pytest.raises(ValueError, match="no weights of SparXSwin 'tiny' are published, got True"):
            load('sparx_swin_tiny', pretrained=True)

    def test_an_unknown_option(self):
        with pytest.raises(TypeError, match='drop_path'):
            load('sparx_mamba_tiny', drop_path=0.1)
