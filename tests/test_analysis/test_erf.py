"""Effective receptive fields, against figures computed by hand."""

import numpy as np
import pytest
import torch
from helpers import SMALL_ARCH, randomise
from torch import nn

from mmsparx.analysis.erf import centred_square, receptive_fields, scaled
from mmsparx.models import SparXMamba


def ones(kernel, stride=1, layers=1):
    """Stacked convolutions of ones, without bias."""
    stack = [nn.Conv2d(1, 1, kernel, stride=stride, padding=kernel // 2, bias=False) for _ in range(layers)]
    for convolution in stack:
        nn.init.ones_(convolution.weight)
    return nn.Sequential(*stack).double()


def images(count=4, side=33, channels=1):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, side, side, generator=generator, dtype=torch.float64)


def field(model, x, batch=None):
    (found,) = receptive_fields(lambda x: [model(x)], x.split(batch or len(x)))
    return found


class TestKnownFields:
    def test_of_one_pixel(self):
        found = field(ones(1), images())
        expected = np.zeros((33, 33))
        expected[16, 16] = 1
        assert np.array_equal(found.map, expected)
        assert centred_square(found.map, 0.99) == (1, 1 / 33**2)
        assert (found.images, found.not_finite, found.dead, found.unit) == (4, 0, 0, (16, 16))

    @pytest.mark.parametrize('layers', [1, 2, 5, 12])
    def test_of_stacked_convolutions_are_the_coefficients_of_a_power(self, layers):
        row = np.array([1])
        for _ in range(layers):
            row = np.convolve(row, [1, 1, 1])
        expected = np.zeros((33, 33))
        inside = slice(16 - layers, 17 + layers)
        expected[inside, inside] = np.outer(row, row)
        found = field(ones(3, layers=layers), images()).map
        assert np.array_equal(found, expected)
        along = found.sum(0) / found.sum()
        assert (along * (np.arange(33) - 16) ** 2).sum() == pytest.approx(2 * layers / 3)

    def test_of_strides_are_centred_on_their_product(self):
        """The centre unit of an even map lies after the image's centre."""
        x = images(side=32)
        model = nn.Sequential(ones(3, stride=2), ones(3, stride=2))
        found = field(model, x)
        assert found.grid == (8, 8)
        rows, columns = np.nonzero(found.map)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (
            13,
            19,
            13,
            19,
        )  # 4 * (8 // 2), and 3 about it

    def test_are_of_rectified_gradients_summed_over_channels(self):
        model = nn.Conv2d(3, 2, 1, bias=False).double()
        model.weight.data = torch.tensor([[3.0, -5.0, 1.0], [-1.0, -1.0, -1.0]]).reshape(2, 3, 1, 1).double()
        x = torch.ones(1, 3, 5, 5, dtype=torch.float64)
        x[:, 1] = 0.1  # the first channel gives 3.5, the second a negative value, which does not count
        assert field(model, x).map[2, 2] == 3 + 1

    def test_of_a_sum_are_the_sum(self):
        """Channels side by side, as in positive maps."""
        one, other = ones(3, layers=2), ones(5)
        x = images()
        both = receptive_fields(lambda x: [torch.cat([one(x), other(x)], 1)], [x])[0].map
        np.testing.assert_allclose(both, field(one, x).map + field(other, x).map, rtol=1e-12)

    def test_of_several_maps_at_once_are_those_of_each(self):
        first, second = ones(3), ones(3, stride=2)
        x = images()

        def maps(x):
            return [first(x), second(first(x)), x]

        alone = [field(first, x).map, field(nn.Sequential(first, second), x).map]
        assert all(np.array_equal(a, b.map) for a, b in zip(alone, receptive_fields(maps, [x], [0, 1]), strict=True))
        assert np.array_equal(receptive_fields(maps, [x], [1])[0].map, alone[1])


@pytest.fixture(scope='module')
def network():
    return randomise(SparXMamba(SMALL_ARCH, output_norm=False)).double().eval()


class TestOfANetwork:
    def test_are_invariant_to_the_size_of_batches(self, network):
        x = images(4, 32, 3) - 0.5
        one, three = (receptive_fields(network, x.split(size)) for size in (1, 3))
        for a, b in zip(one, three, strict=True):
            assert np.abs(a.map).max() > 0
            np.testing.assert_allclose(a.map, b.map, rtol=1e-9, atol=1e-12 * a.map.max())

    def test_a_group_norm_makes_every_pixel_act_on_every_unit(self, network):
        """docs/analyses.md explains it for SparX's figures."""
        x = images(1, 64, 3) - 0.5
        first = receptive_fields(network, [x], [0])[0].map
        assert (first > 0).mean() > 0.5
        assert first[:8, :8].any()

    def test_an_image_that_is_not_finite_is_left_out(self, network):
        x = images(4, 32, 3) - 0.5
        expected = receptive_fields(network, [x[[0, 1, 3]]])
        x[2, 1, 5, 5] = float('nan')
        for a, b in zip(receptive_fields(network, [x]), expected, strict=True):
            assert (a.images, a.not_finite) == (3, 1)
            np.testing.assert_allclose(a.map, b.map, rtol=1e-9, atol=1e-12 * b.map.max())
        found = receptive_fields(network, [x[2:3]])[0]
        assert (found.images, found.not_finite, found.map.any()) == (0, 1, False)


def test_a_dead_unit_gives_zeros_and_is_counted():
    x = images()
    x[1] *= -1
    found = field(ones(3), x)
    assert (found.images, found.dead) == (4, 1)
    alive = field(ones(3), x[[0, 2, 3]])
    np.testing.assert_allclose(found.map, alive.map * 3 / 4)
    dead = field(ones(3), -images())
    assert (dead.dead, dead.map.any()) == (4, False)
    assert centred_square(dead.map, 0.5) is None
    assert not scaled(dead.map).any()


class TestSquares:
    def test_are_the_smallest_that_exceed_a_share(self):
        values = np.zeros((9, 9))
        values[3:6, 3:6] = 1
        values[4, 4] = 2  # 20 % of the sum exactly
        assert centred_square(values, 0.19) == (1, 1 / 81)
        assert centred_square(values, 0.2) == (3, 9 / 81)
        assert centred_square(values, 0.99) == (3, 9 / 81)

    def test_are_cut_off_at_the_border(self):
        values = np.zeros((8, 6))
        values[0, 0] = 1
        assert centred_square(values, 0.5) == (8, 1.0)
        values = np.zeros((8, 6))
        values[4, 0] = 1
        assert centred_square(values, 0.5) == (7, 7 * 6 / 48)

    def test_hold_the_whole_map_in_the_end(self):
        assert centred_square(np.full((224, 224), 1 / 3), 0.99) == (223, 223**2 / 224**2)
        assert centred_square(np.full((4, 4), 0.1), 0.999) == (4, 1.0)

    @pytest.mark.parametrize('share', [1, -0.1, float('nan')])
    def test_shares_out_of_range(self, share):
        with pytest.raises(ValueError, match=r'share: expected a number from 0 to below 1'):
            centred_square(np.ones((2, 2)), share)


def test_scales():
    values = np.array([[0.0, 1.0], [32.0, 99.0]])
    np.testing.assert_allclose(scaled(values), (values / 99) ** 0.2)
    np.testing.assert_allclose(scaled(values, 'log'), np.log10(1 + values) / 2)
    with pytest.raises(ValueError, match=r"scale: expected one of root, log, got 'linear'"):
        scaled(values, 'linear')


def test_inputs_that_are_not_images():
    with pytest.raises(ValueError, match=r'expected at least one batch of images'):
        receptive_fields(lambda x: [x], [])
    with pytest.raises(ValueError, match=r'expected maps \(B, C, h, w\), got one of shape \(1, 4\)'):
        receptive_fields(lambda x: [x.mean((2, 3))], [images(1, 4, 4)])
    with pytest.raises(ValueError, match=r'expected images of one size, got \(5, 5\) after \(4, 4\)'):
        receptive_fields(lambda x: [x], [images(1, 4), images(1, 5)])
