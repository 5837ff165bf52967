"""Files of weights to load: classifiers and detectors of the small architecture, in published names."""

import copy
from functools import lru_cache

import torch

from helpers import SMALL_ARCH, randomise
from mmsparx.models import SparXClassifier, SparXMamba
from mmsparx.weights.names import SPARX

LEARNABLE = {'type': 'DMCA', 'learnable_scale': True}


def build(arch=SMALL_ARCH, **options):
    return SparXMamba(arch, **options)


def build_classifier(num_classes=5):
    return SparXClassifier(build(out_indices=(3,), output_norm=False), num_classes)


def published_classifier(seed=0):
    """A flat state dict with published names, like a classifier's of the small architecture."""
    return dict(_published_classifier(seed))


@lru_cache
def _published_classifier(seed):
    model = randomise(build_classifier(), seed)
    state = {SPARX.to_published(name.removeprefix('backbone.')): x for name, x in model.state_dict().items()}
    assert None not in state
    return state


def published_detector(prefix='backbone.'):
    """The state dict of a detector with published names, heads and all."""
    state = {f'{prefix}{name}': x for name, x in _published_backbone().items()}
    return state | {prefix.replace('backbone.', 'neck.') + 'conv.weight': torch.zeros(2)}


@lru_cache
def _published_backbone():
    model = randomise(build(aggregator=LEARNABLE))
    return {SPARX.to_published(name): x for name, x in model.state_dict().items()}


def assert_loaded(model, published, prefix=''):
    """Assert that every tensor of the model that the file has is the file's."""
    for name, x in model.state_dict().items():
        key = f'{prefix}{SPARX.to_published(name)}'
        if key in published:
            assert torch.equal(x, published[key].to(x.dtype)), name


def state_of(model):
    return copy.deepcopy(model.state_dict())


def assert_unchanged(model, before):
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def assert_same_bits(actual, expected):
    """Assert that both state dicts have the same names, types, shapes and bits, NaNs included."""
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        y = actual[name]
        assert (y.dtype, y.shape) == (x.dtype, x.shape), name
        assert y.contiguous().view(-1).view(torch.uint8).equal(x.contiguous().view(-1).view(torch.uint8)), name
