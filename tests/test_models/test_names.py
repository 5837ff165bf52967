"""Published parameter names and ours: one to one, with the published shapes."""

import pytest
import torch
from helpers import oracle_shapes

from mmsparx.models import SparXClassifier, SparXMamba
from mmsparx.models.names import is_published, to_ours, to_published

ARCHS = {'t': 'tiny', 's': 'small', 'b': 'base'}


@pytest.mark.parametrize('name', ['t', 's', 'b', 't_detection_extra'])
def test_there_and_back(name):
    published = list(oracle_shapes(name))
    ours = [to_ours(x) for x in published]
    assert len(set(ours)) == len(published)
    assert [to_published(x) for x in ours] == published


@pytest.mark.parametrize('name', ARCHS)
def test_the_classifier_has_the_published_names_and_shapes(name):
    with torch.device('meta'):
        model = SparXClassifier(SparXMamba(ARCHS[name], out_indices=(3,), output_norm=False))
    ours = {x.removeprefix('backbone.'): list(tensor.shape) for x, tensor in model.state_dict().items()}
    published = {to_published(x): shape for x, shape in ours.items()}
    assert published == oracle_shapes(name)
    assert {to_ours(x) for x in published} == set(ours)


def test_the_detection_backbone_has_the_published_names_and_shapes():
    with torch.device('meta'):
        model = SparXMamba('tiny', aggregator={'type': 'DMCA', 'learnable_scale': True})
    ours = {to_published(x): list(tensor.shape) for x, tensor in model.state_dict().items()}
    classifier = {x: shape for x, shape in oracle_shapes('t').items() if not x.startswith('classifier.')}
    assert ours == classifier | oracle_shapes('t_detection_extra')


@pytest.mark.parametrize(
    'name',
    [
        'conv1.weight',
        'head.fc.weight',
        'layers.0.blocks.0.attn.qkv.weight',
        'layers.0.blocks.0.op.nonesuch.weight',
        'layers.0.blocks.0.op.in_proj',
        'layers.0.blocks.0',
        'classifier.1.weight',
        'norm.weight',
        'norm.x.weight',
        '',
    ],
)
def test_not_a_published_name(name):
    assert to_ours(name) is None


@pytest.mark.parametrize(
    'name',
    ['conv1.weight', 'patch_embed.0.weight', 'stages.0.layers.0.nonesuch.weight', 'stages.0.layers.0.mixer.x', ''],
)
def test_not_a_name_of_ours(name):
    assert to_published(name) is None


def test_is_published():
    assert is_published(['x', 'patch_embed.0.weight'])
    assert is_published(['layers.0.blocks.1.norm.weight'])
    assert not is_published(['stem.0.weight', 'stages.0.layers.0.norm1.weight', 'layers.0.weight'])
    assert not is_published([])
