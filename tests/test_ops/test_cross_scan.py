"""The four scan directions, by hand and as a linear map."""

import pytest
import torch

from mmsparx.analysis import traffic
from mmsparx.ops import cross_merge, cross_scan

# 0 1 2
# 3 4 5
ORDERS = [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0]]


class TestCrossScan:
    def test_by_hand(self):
        x = torch.arange(6).view(1, 1, 2, 3)
        assert cross_scan(x)[0, :, 0].tolist() == ORDERS

    def test_a_map_per_direction(self):
        x = torch.arange(24).view(1, 4, 1, 2, 3)
        expected = [[6 * k + i for i in order] for k, order in enumerate(ORDERS)]
        assert cross_scan(x)[0, :, 0].tolist() == expected

    def test_square_maps(self):
        x = torch.randn(2, 4, 3, 5, 5)
        positions = torch.arange(25).view(5, 5)
        orders = positions, positions.t(), positions.flip(0, 1), positions.t().flip(0, 1)
        expected = torch.stack([x[:, k].flatten(2)[..., order.flatten()] for k, order in enumerate(orders)], 1)
        assert torch.equal(cross_scan(x), expected)
        assert traffic(lambda: cross_scan(x)).total_calls == 2

    def test_a_trace_of_a_square_map_is_for_any_shape(self):
        traced = torch.jit.trace(cross_scan, torch.randn(1, 4, 2, 3, 3))
        x = torch.randn(1, 4, 2, 3, 5)
        assert torch.equal(traced(x), cross_scan(x))

    @pytest.mark.parametrize('shape', [(2, 3, 1, 1), (2, 3, 1, 5), (2, 3, 4, 1), (0, 3, 2, 2), (2, 4, 3, 2)])
    def test_shapes(self, shape):
        batch, channels, height, width = shape
        x = torch.randn(shape)
        expected = cross_scan(x.unsqueeze(1).repeat(1, 4, 1, 1, 1))
        assert expected.shape == (batch, 4, channels, height * width)
        assert torch.equal(cross_scan(x), expected)

    @pytest.mark.parametrize('shape', [(3, 4, 5), (2, 3, 4, 5, 6), (1, 4, 2, 2, 2, 2)])
    def test_other_shapes_are_refused(self, shape):
        with pytest.raises(
            ValueError, match=rf'\(B, C, H, W\) or \(B, 4, C, H, W\), got \({", ".join(map(str, shape))}\)'
        ):
            cross_scan(torch.zeros(shape))


class TestCrossMerge:
    def test_by_hand(self):
        # Direction k has 10^k at the position that it visits first, and 0 elsewhere.
        y = torch.zeros(1, 4, 1, 6)
        y[0, :, 0, 0] = torch.tensor([1.0, 10.0, 100.0, 1000.0])
        assert cross_merge(y, 2, 3)[0, 0].tolist() == [[11, 0, 0], [0, 0, 1100]]
        y = y.roll(1, -1)  # now at the second
        assert cross_merge(y, 2, 3)[0, 0].tolist() == [[0, 1, 1000], [10, 100, 0]]

    @pytest.mark.parametrize(('height', 'width'), [(1, 1), (1, 5), (4, 1), (3, 4)])
    def test_undoes_the_scan_four_times(self, height, width):
        x = torch.randn(2, 3, height, width, dtype=torch.float64)
        assert torch.equal(cross_merge(cross_scan(x), height, width), 4 * x)

    @pytest.mark.parametrize(('height', 'width'), [(1, 1), (1, 5), (4, 1), (3, 4)])
    def test_is_the_transpose_of_the_scan(self, height, width):
        # <scan(x), y> = <x, merge(y)> for the broadcast form, whose transpose it is.
        x = torch.randn(2, 3, height, width, dtype=torch.float64)
        y = torch.randn(2, 4, 3, height * width, dtype=torch.float64)
        torch.testing.assert_close((cross_scan(x) * y).sum(), (x * cross_merge(y, height, width)).sum())
        x.requires_grad_()
        assert torch.autograd.grad(cross_scan(x), x, y)[0].allclose(cross_merge(y, height, width), rtol=1e-14)

    def test_gradients(self):
        x = torch.randn(1, 4, 2, 2, 3, dtype=torch.float64, requires_grad=True)
        y = torch.randn(1, 4, 2, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(cross_scan, x)
        assert torch.autograd.gradcheck(lambda y: cross_merge(y, 2, 3), y)

    @pytest.mark.parametrize('shape', [(1, 4, 2, 7), (1, 3, 2, 6), (4, 2, 6), (1, 4, 2, 2, 3)])
    def test_other_shapes_are_refused(self, shape):
        got = ', '.join(map(str, shape))
        with pytest.raises(ValueError, match=rf'expected y of shape \(B, 4, C, 6\) for a 2x3 map, got \({got}\)'):
            cross_merge(torch.zeros(shape), 2, 3)
