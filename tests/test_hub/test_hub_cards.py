"""Model cards: the description of a network, and the origin of their figures."""

import pytest
from helpers import SMALL_ARCH

from mmsparx.hub.cards import model_card
from mmsparx.hub.names import PREFIXES, published_model
from mmsparx.models import SparXMamba, SparXSwin, VMamba
from mmsparx.zoo import read_models

FAMILIES = {'SparXMamba': SparXMamba, 'SparXSwin': SparXSwin, 'VMamba': VMamba}


def card(backbone, num_classes=1000, repo_id=None, **beside):
    config = {'type': 'SparXClassifier', 'backbone': backbone, 'num_classes': num_classes, **beside}
    return model_card(config, 27_051_794, 'image-classification', 'apache-2.0', repo_id)


def test_the_metadata():
    text = card({'type': 'SparXMamba', 'arch': 'tiny'}, architecture='sparx_mamba_tiny')
    yaml = pytest.importorskip('yaml', reason='the metadata is in YAML')
    _, metadata, _ = text.split('---\n', 2)
    assert yaml.safe_load(metadata) == {
        'library_name': 'mmsparx',
        'license': 'apache-2.0',
        'pipeline_tag': 'image-classification',
        'tags': ['image-classification', 'mmsparx', 'sparx', 'timm'],
    }


def test_figures_of_the_paper_are_said_to_be_its():
    text = card({'type': 'SparXMamba', 'arch': 'tiny'})
    assert '# SparXMamba tiny\n' in text
    assert 'A classifier of 1000 classes over SparXMamba tiny, of 27.1 M parameters.' in text
    assert '**not measurements of the weights in this folder**' in text
    assert '| Top 1 Accuracy, ImageNet-1k | 83.5 % | SparX paper, Table 2 |' in text
    assert '| multiply-adds of an image of 224x224 | 5.2 G | SparX paper, Table 2 |' in text
    assert 'https://arxiv.org/abs/2409.09649' in text
    assert text.index('## Figures of the paper') < text.index('83.5')
    vmamba = card({'type': 'VMamba', 'arch': 'tiny_s1l8'})
    assert "| Top 1 Accuracy, ImageNet-1k | 82.6 % | VMamba's authors |" in vmamba
    assert 'https://arxiv.org/abs/2401.10166' in vmamba


@pytest.mark.parametrize('family', FAMILIES)
def test_every_named_network_has_figures(family):
    models = read_models('classification')
    for arch in FAMILIES[family].ARCHITECTURES:
        model = published_model(family, arch)
        assert model in models.values()
        assert ('Weights' in model) == (family != 'SparXSwin')
        assert model['Name'].startswith(PREFIXES[family])
    assert published_model(family, 'huge') is None
    assert published_model('Other', 'tiny') is None


@pytest.mark.parametrize(
    'changes',
    [
        {'arch': SMALL_ARCH},
        {'token_mixer': {'type': 'SSM'}},
        {'style': 'vmamba'},
        {'aggregator': {'type': 'Concat'}},
        {'in_channels': 4},
    ],
)
def test_other_networks_have_none(changes):
    text = card({'type': 'SparXMamba', 'arch': 'tiny', **changes})
    assert 'Figures of the paper' not in text
    assert '83.5' not in text


def test_the_code_that_loads_it():
    backbone = {'type': 'SparXMamba'}
    text = card(backbone, repo_id='owner/sparx-t', architecture='sparx_mamba_tiny')
    assert '# sparx-t\n' in text
    assert "from_pretrained('owner/sparx-t')" in text
    assert "timm.create_model('hf-hub:owner/sparx-t', pretrained=True)" in text
    text = model_card(backbone | {'architecture': 'x'}, 1, 'image-feature-extraction', 'mit')
    assert "from mmsparx.models import SparXMamba\n\nmodel = SparXMamba.from_pretrained('path/to/folder')" in text
    assert "timm.create_model('local-dir:path/to/folder', pretrained=True, features_only=True)" in text
    assert 'timm' not in card(backbone)


def test_a_card_of_ones_own_stays(tmp_path):
    pytest.importorskip('safetensors', reason='the format of the weights')
    (tmp_path / 'README.md').write_text('mine')
    SparXMamba(SMALL_ARCH).save_pretrained(tmp_path)
    assert (tmp_path / 'README.md').read_text() == 'mine'
