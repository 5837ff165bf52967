"""Similarity of layers, against the explicit formula and its known values."""

import pytest
import torch
from torch import nn

from mmsparx.analysis.cka import MinibatchCKA, gram, hsic, layer_similarity


def draw(*shape, seed=0, offset=0.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset


def cka(x, y, batch=None):
    total = MinibatchCKA()
    for parts in zip(x.split(batch or len(x)), y.split(batch or len(y)), strict=True):
        total.update(parts)
    return total.matrix()[0, 1].item()


def related(n=24, shared=5, own=40, seed=0):
    """Features that are partly the same: 0 < CKA < 1."""
    common = draw(n, shared, seed=seed)
    return [common @ draw(shared, own, seed=i) + draw(n, own, seed=10 * seed + i) for i in (1, 2)]


def rotation(size):
    return torch.linalg.qr(draw(size, size, seed=7))[0]


def naive_hsic(k, l):  # noqa: E741
    """The estimator of Nguyen et al., entry by entry."""
    n = len(k)
    k, l = (x.clone().fill_diagonal_(0) for x in (k, l))  # noqa: E741
    product = k @ l
    return (
        sum(product[i, i] for i in range(n))
        + sum(k[i, j] for i in range(n) for j in range(n)) * sum(l[i, j] for i in range(n) for j in range(n))
        / ((n - 1) * (n - 2))
        - 2 / (n - 2) * sum(product[i, j] for i in range(n) for j in range(n))
    ) / (n * (n - 3))  # fmt: skip


class TestKnownValues:
    def test_the_estimate_is_that_of_the_formula(self):
        grams = torch.stack([gram(x) for x in related(6)])
        found = hsic(grams)
        for i in range(2):
            for j in range(2):
                assert found[i, j].item() == pytest.approx(naive_hsic(grams[i], grams[j]).item(), rel=1e-10)

    def test_one_minibatch_of_all_images_is_the_full_formula(self):
        x, y = related()
        k, l = gram(x), gram(y)  # noqa: E741
        expected = naive_hsic(k, l) / (naive_hsic(k, k) * naive_hsic(l, l)).sqrt()
        assert cka(x, y) == pytest.approx(expected.item(), abs=1e-10)
        assert 0.1 < expected < 0.9

    @pytest.mark.parametrize('batch', [None, 8])
    def test_of_features_with_themselves_is_1(self, batch):
        x, _ = related()
        assert cka(x, x, batch) == pytest.approx(1, abs=1e-12)

    @pytest.mark.parametrize('batch', [None, 8])
    def test_does_not_see_rotations_scales_offsets_and_the_order(self, batch):
        x, y = related()
        expected = cka(x, y, batch)
        assert cka(x @ rotation(40) * 3.7, y, batch) == pytest.approx(expected, abs=1e-12)
        assert cka(x + draw(1, 40, seed=3) * 100, y, batch) == pytest.approx(expected, abs=1e-10)
        assert cka(y, x, batch) == pytest.approx(expected, abs=1e-12)
        assert cka(x[:, torch.randperm(40)], x, batch) == pytest.approx(1, abs=1e-12)

    def test_of_independent_features_is_0_in_expectation_and_not_clipped(self):
        values = torch.tensor([cka(draw(12, 30, seed=2 * i), draw(12, 30, seed=2 * i + 1)) for i in range(300)])
        assert abs(values.mean()) < 4 * values.std() / 300**0.5
        assert (values < 0).any()

    def test_of_many_minibatches_agrees_in_expectation(self):
        """The estimate of 40 minibatches of 8 has a standard deviation of 0.013."""
        x, y = related(2048)
        expected = cka(x, y)
        found = [cka(*(part[i : i + 320] for part in (x, y)), 8) for i in range(0, 1920, 320)]
        assert sum(found) / len(found) == pytest.approx(expected, abs=0.03)

    def test_float32_with_a_large_offset_loses_nothing(self):
        x, y = related(32, own=2000)
        for offset in (0, 10, 100):
            found = cka(x.float() + offset, y.float() + offset)
            assert found == pytest.approx(cka(x, y), abs=1e-6)

    def test_maps_of_more_features_than_a_chunk(self):
        x = draw(4, 3, 160, 160)
        flat = x.flatten(1) - x.flatten(1).mean(0)
        torch.testing.assert_close(gram(x), flat @ flat.T, rtol=1e-10, atol=1e-8)

    def test_a_layer_with_the_same_output_for_all_images(self):
        total = MinibatchCKA()
        total.update([draw(6, 5), torch.ones(6, 5)])
        assert total.matrix()[0, 0] == 1
        assert total.matrix()[1].isnan().all()


class Net(nn.Module):
    """Two layers, one of which is the other with its channels in another order."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Conv2d(3, 6, 3)
        self.other = nn.Conv2d(6, 4, 1)
        self.unused = nn.Conv2d(3, 6, 3)
        self.several = nn.ReLU()
        order = torch.randperm(6)
        self.second.load_state_dict({name: x[order] for name, x in self.first.state_dict().items()})

    def forward(self, x):
        return self.other(self.several(self.several(self.first(x)))), self.second(x)


class TestOfANetwork:
    @pytest.fixture
    def net(self):
        return Net().double()

    def layers(self, net, *names):
        return {name: net.get_submodule(name) for name in names}

    def test_layers_that_differ_in_the_order_of_channels(self, net):
        x = draw(10, 3, 5, 5)
        found = layer_similarity(net, self.layers(net, 'first', 'other', 'second'), x.split(5))
        assert found.names == ['first', 'other', 'second']
        assert (found.images, found.minibatches, found.left_out, found.constant) == (10, 2, 0, [])
        assert found.matrix[0, 2].item() == pytest.approx(1, abs=1e-12)
        assert 0 < found.matrix[0, 1] < 1
        a, b = found.matrix[0, 1], found.matrix[1, 2]
        assert found.mean_off_diagonal == pytest.approx((1 + a + b).item() / 3)
        expected = MinibatchCKA()
        for part in x.split(5):
            with torch.no_grad():
                expected.update([net.first(part), net.other(net.first(part).relu()), net.second(part)])
        torch.testing.assert_close(found.matrix, expected.matrix(), rtol=1e-10, atol=1e-12)

    def test_similarity_of_inputs(self, net):
        x = draw(6, 3, 5, 5)
        given = layer_similarity(net, self.layers(net, 'first', 'second', 'other'), [x], inputs=True)
        assert given.matrix[0, 1].item() == pytest.approx(1, abs=1e-12)
        assert given.matrix[0, 2] < 1

    def test_small_minibatches_are_left_out(self, net):
        found = layer_similarity(net, self.layers(net, 'first', 'other'), draw(11, 3, 5, 5).split(4))
        assert (found.images, found.minibatches, found.left_out) == (8, 2, 3)

    def test_no_hook_stays(self, net):
        with pytest.raises(ValueError, match='unused does not run'):
            layer_similarity(net, self.layers(net, 'first', 'unused'), [draw(5, 3, 5, 5)])
        assert not any(module._forward_hooks for module in net.modules())

    @pytest.mark.parametrize(
        ('names', 'x', 'message'),
        [
            (['first', 'several'], draw(5, 3, 5, 5), r'several runs several times for an image'),
            (['first', ''], draw(5, 3, 5, 5), r': expected a tensor with an entry for each of 5 images, got tuple'),
            (['first'], draw(5, 3, 5, 5) * float('inf'), r'first gives values that are not finite'),
            (['first'], draw(3, 3, 5, 5), r'expected at least 4 images in a minibatch, got 3 images in all'),
        ],
    )
    def test_layers_that_cannot_be_compared(self, net, names, x, message):
        with pytest.raises(ValueError, match=message):
            layer_similarity(net, self.layers(net, *names), [x])

    def test_images_that_are_folded_into_windows(self):
        class Windows(nn.Module):
            def forward(self, x):
                return x.flatten(0, 1)

        net = nn.Sequential(Windows())
        with pytest.raises(ValueError, match=r'got shape \(10, 4\); choose another module'):
            layer_similarity(net, {'0': net[0]}, [draw(5, 2, 4)])


def test_inputs_that_are_not_minibatches():
    with pytest.raises(ValueError, match=r'expected at least 4 images in a minibatch, got 3'):
        MinibatchCKA().update([draw(3, 5), draw(3, 5)])
    with pytest.raises(
        ValueError, match=r'expected features of the same images in all layers, got numbers of \[5, 6\]'
    ):
        MinibatchCKA().update([draw(5, 5), draw(6, 5)])
    with pytest.raises(ValueError, match=r'expected at least one minibatch, got none'):
        MinibatchCKA().matrix()
