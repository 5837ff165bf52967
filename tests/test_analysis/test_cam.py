"""Class activation maps, against maps computed by hand."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import SMALL_ARCH, randomise
from torch import nn

pytest.importorskip('pytorch_grad_cam', reason='the library that is used')
from mmsparx.analysis.cam import class_activation
from mmsparx.models import SparXClassifier, SparXMamba


@pytest.fixture
def classifier():
    backbone = SparXMamba(SMALL_ARCH, out_indices=(3,), output_norm=False)
    return randomise(SparXClassifier(backbone, 5)).eval().requires_grad_(False)


def by_hand(model, layer, x, score):
    """relu(sum of channels times the mean of their gradients), from 0 to 1, at the size of the layer's map."""
    kept = []
    hook = layer.register_forward_hook(lambda _, __, y: kept.append(y))
    value = score(x.clone().requires_grad_())
    hook.remove()
    (gradient,) = torch.autograd.grad(value, kept[0])
    found = (kept[0] * gradient.mean((2, 3), keepdim=True)).sum(1)[0].relu().detach()
    return ((found - found.min()) / (found - found.min()).max()).numpy()


class TestValues:
    @pytest.mark.parametrize(
        'name',
        [
            'backbone.stages.2',
            'backbone.stages.1.layers.1',  # a ganglion layer, whose inputs are its input and sources
            'backbone.stages.2.layers.2.mixer',
            'backbone.stages.2.layers.1.ffn',
            'backbone.stem',
        ],
    )
    def test_of_any_layer(self, classifier, name):
        layer, x = classifier.get_submodule(name), torch.randn(1, 3, 64, 48)

        def score(x):
            return classifier(x)[0, 3]

        found = class_activation(classifier, layer, x, score)
        expected = by_hand(classifier, layer, x, score)
        assert found.shape == (64, 48)
        assert found.max() == pytest.approx(1, abs=1e-4)
        resized = F.interpolate(torch.from_numpy(expected)[None, None], (64, 48), mode='bilinear')[0, 0].numpy()
        # OpenCV's bilinear interpolation is torch's; it is scaled once more after it.
        np.testing.assert_allclose(found, (resized - resized.min()) / np.ptp(resized), atol=1e-3)

    def test_of_evidence_in_one_place(self):
        """A layer whose only channel that speaks for the score lies in a corner."""
        model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        x = torch.zeros(1, 2, 8, 8)
        x[0, 0, :2, 6:] = 5
        x[0, 1, 6:, :2] = 5
        found = class_activation(model, model[0], x, lambda x: model(x)[0, 0])
        assert found[0, 7] == pytest.approx(1, abs=1e-4)
        assert found[7, 0] == 0

    def test_of_maps_with_channels_last(self):
        class Last(nn.Module):
            def forward(self, x):
                return x.permute(0, 2, 3, 1)

        model, x = Last(), torch.rand(1, 3, 6, 4)
        weights = torch.rand(6, 4, 3)

        def score(x):
            return (model(x)[0] * weights).sum()

        found = class_activation(model, model, x, score, lambda y: y.permute(0, 3, 1, 2))
        expected = (x[0] * weights.mean((0, 1)).reshape(3, 1, 1)).sum(0)
        expected = (expected - expected.min()) / (expected - expected.min()).max()
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)

    def test_no_hook_and_no_gradient_stays(self, classifier):
        layer = classifier.backbone.stages[2]
        class_activation(classifier, layer, torch.randn(1, 3, 64, 48), lambda x: classifier(x)[0, 0])
        assert not layer._forward_hooks
        assert all(parameter.grad is None for parameter in classifier.parameters())


class TestRefusals:
    @pytest.mark.parametrize(
        ('name', 'message'),
        [
            ('head.fc', r'expected a layer that gives a map \(1, channels, h, w\), got \(1, 5\)'),
            ('backbone.stages.3', 'a map of one position, which shows no place'),
            ('backbone.stages', 'the layer does not run'),
        ],
    )
    def test_layers(self, classifier, name, message):
        layer = classifier.get_submodule(name)
        with pytest.raises(ValueError, match=message):
            class_activation(classifier, layer, torch.randn(1, 3, 32, 32), lambda x: classifier(x)[0, 0])

    def test_a_score_that_does_not_depend_on_the_layer(self, classifier):
        def score(x):
            classifier(x)
            return x.sum()

        with pytest.raises(ValueError, match='the score does not depend on the layer'):
            class_activation(classifier, classifier.backbone.stages[1], torch.randn(1, 3, 32, 32), score)

    def test_an_index_error_is_not_swallowed(self, classifier):
        """The library would print it and go on."""
        with pytest.raises(IndexError):
            class_activation(
                classifier, classifier.backbone.stages[1], torch.randn(1, 3, 32, 32), lambda x: classifier(x)[0, 9]
            )


def test_without_the_library(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmsparx.analysis.cam')
    for name in [name for name in sys.modules if name.partition('.')[0] == 'pytorch_grad_cam']:
        monkeypatch.delitem(sys.modules, name)

    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.partition('.')[0] == 'pytorch_grad_cam':
                raise ModuleNotFoundError(f'No module named {name!r}', name=name)

    monkeypatch.setattr(sys, 'meta_path', [Blocked(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mmsparx\[analysis\]'"):
        import mmsparx.analysis.cam  # noqa: F401
