"""SS2D against an independent computation, in 16 bits, and its initial values."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import Watch, naive_scan, randomise, relative_error
from torch import nn

from mmsparx.layers.mixers import SS2D


def naive_ss2d(weights, x, state_size, step_rank, norm='GN'):
    """SS2D by definition: the projections follow the cross-scan, direction by direction."""
    h = F.conv2d(x, weights['in_proj.weight'], weights.get('in_proj.bias'))
    kernel = weights['conv.weight']
    h = F.conv2d(h, kernel, weights.get('conv.bias'), padding=kernel.shape[-1] // 2, groups=h.shape[1])
    h = h * torch.sigmoid(h)
    inner, height, width = h.shape[1:]
    rows = torch.arange(height * width)
    columns = rows.view(height, width).t().reshape(-1)
    merged = torch.zeros_like(h).flatten(2)
    x_proj = weights['x_proj_weight'].view(4, step_rank + 2 * state_size, inner)
    for k, order in enumerate((rows, columns, rows.flip(0), columns.flip(0))):
        u = h.flatten(2)[:, :, order]
        dt, B, C = torch.einsum('rd,bdl->brl', x_proj[k], u).split([step_rank, state_size, state_size], 1)
        y, _ = naive_scan(
            u,
            torch.einsum('dr,brl->bdl', weights['dt_proj_weight'][k], dt),
            -torch.exp(weights['A_log'].view(4, inner, state_size)[k]),
            B,
            C,
            weights['D'].view(4, inner)[k],
            delta_bias=weights['dt_proj_bias'][k],
            delta_softplus=True,
        )
        merged[:, :, order] += y
    over = (1, 2) if norm == 'GN' else 1  # one group: over C, H and W
    merged = merged - merged.mean(over, keepdim=True)
    h = (merged / (merged.square().mean(over, keepdim=True) + 1e-5).sqrt()).view(h.shape)
    h = h * weights['out_norm.weight'][:, None, None] + weights['out_norm.bias'][:, None, None]
    return F.conv2d(h, weights['out_proj.weight'], weights.get('out_proj.bias'))


def build(dim=8, **options):
    return randomise(SS2D(dim, **options).double())


class TestTruth:
    @pytest.mark.parametrize('size', [(1, 1), (1, 6), (5, 1), (4, 4), (5, 7), (9, 8)], ids=str)
    def test_sizes(self, size):
        layer, x = build(), torch.randn(2, 8, *size, dtype=torch.float64)
        assert relative_error(layer(x), naive_ss2d(layer.state_dict(), x, 1, 1)) < 1e-12

    @pytest.mark.parametrize(
        ('options', 'state_size', 'step_rank'),
        [
            ({'dim': 33}, 1, 3),
            ({'state_size': 4}, 4, 1),
            ({'step_rank': 5}, 1, 5),
            ({'expand': 1}, 1, 1),
            ({'kernel_size': 3}, 1, 1),
            ({'backend': 'reference'}, 1, 1),
            ({'index': 3}, 1, 1),
            ({'conv_bias': False}, 1, 1),
            ({'proj_bias': False}, 1, 1),
            ({'norm': 'LN2d'}, 1, 1),
            ({'norm': {'type': 'LN2d'}, 'kernel_size': 3, 'conv_bias': False, 'proj_bias': False}, 1, 1),
        ],
        ids=str,
    )
    def test_options(self, options, state_size, step_rank):
        layer = build(**options)
        x = torch.randn(2, options.get('dim', 8), 5, 7, dtype=torch.float64)
        norm = 'LN2d' if 'norm' in options else 'GN'
        assert relative_error(layer(x), naive_ss2d(layer.state_dict(), x, state_size, step_rank, norm)) < 1e-12

    def test_biases(self):
        def biases(**options):
            return {name for name in SS2D(8, **options).state_dict() if name.endswith('.bias')}

        every = {'in_proj.bias', 'conv.bias', 'out_norm.bias', 'out_proj.bias'}
        assert biases() == every
        assert biases(conv_bias=False) == every - {'conv.bias'}
        assert biases(proj_bias=False) == every - {'in_proj.bias', 'out_proj.bias'}

    def test_gradients_of_input_and_parameters(self):
        layer = build()
        x = torch.randn(2, 8, 5, 7, dtype=torch.float64, requires_grad=True)
        weights = {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters()}
        weight = torch.randn(2, 8, 5, 7, dtype=torch.float64)
        (layer(x) * weight).sum().backward()
        ours = {'x': x.grad, **{name: p.grad for name, p in layer.named_parameters()}}
        expected = torch.autograd.grad((naive_ss2d(weights, x, 1, 1) * weight).sum(), (x, *weights.values()))
        for (name, gradient), truth in zip(ours.items(), expected, strict=True):
            assert relative_error(gradient, truth) < 1e-12, name

    def test_an_aggregator_takes_the_place_of_the_projection(self):
        class Sum(nn.Module):
            def __init__(self, dim, out_dim):
                super().__init__()
                self.shape = dim, out_dim

            def forward(self, x, *sources):
                return torch.cat((x, sum(sources)), 1)

        layer = randomise(SS2D(8, Sum).double())
        assert layer.in_proj.shape == (8, 16)
        x, a, b = torch.randn(3, 2, 8, 3, 4, dtype=torch.float64)
        identity = {'in_proj.weight': torch.eye(16).double()[..., None, None], 'in_proj.bias': torch.zeros(16).double()}
        expected = naive_ss2d({**layer.state_dict(), **identity}, torch.cat((x, a + b), 1), 1, 1)
        assert relative_error(layer(x, a, b), expected) < 1e-12


class TestPrecision:
    def test_float32_is_close(self):
        layer, x = build(), torch.randn(2, 8, 9, 8, dtype=torch.float64)
        expected = layer(x)
        assert relative_error(layer.float()(x.float()), expected) < 1e-6

    @pytest.mark.parametrize('autocast', [True, False])
    def test_bfloat16_keeps_state_and_parameters_of_the_scan_in_float32(self, autocast):
        layer, x = build(), torch.randn(2, 8, 9, 8, dtype=torch.float64)
        expected = layer(x)
        layer.float() if autocast else layer.bfloat16()
        x = x.float() if autocast else x.bfloat16()
        with Watch() as watch, torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
            out = layer(x)
        scanned, step, weight, A, B, C, D, bias, y, states = watch.types['mmsparx.cross_selective_scan_fwd.default']
        assert {scanned, step, weight, B, C, y} == {torch.bfloat16}
        assert {A, D, bias, states} == {torch.float32}
        assert set(watch.types['aten.exp.default']) == {torch.float32}  # of A_log
        assert relative_error(out, expected) < 2e-2  # some five roundings of 2^-9, the scan's inputs among them

        out.float().square().sum().backward()
        assert all(p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in layer.parameters())

    def test_autocast_takes_a_float32_map_from_an_aggregator(self):
        class Full(nn.Module):
            def __init__(self, dim, out_dim):
                super().__init__()

            def forward(self, x, *sources):
                return torch.cat((x, *sources), 1).float()

        layer = randomise(SS2D(8, Full))
        x = torch.randn(2, 2, 8, 3, 3)
        expected = layer(*x)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert relative_error(layer(*x), expected) < 2e-2

    def test_float64_stays_float64(self):
        layer, x = build(), torch.randn(1, 8, 3, 4, dtype=torch.float64, requires_grad=True)
        with Watch() as watch:
            layer(x).sum().backward()
        assert watch.floating == {torch.float64}


class TestInitialValues:
    def test_drawn_in_the_order_of_the_published_code(self):
        # A seed gives the same network in every version.
        torch.manual_seed(3)
        layer = SS2D(8)
        torch.manual_seed(3)
        parts = [nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 5, groups=16), nn.Conv2d(16, 8, 1)]
        x_proj = torch.empty(12, 16, 1).uniform_(-0.25, 0.25)
        dt_proj = torch.empty(4, 16, 1).uniform_(-1, 1)
        step = torch.empty(4, 16).uniform_(math.log(1e-3), math.log(0.1)).exp()
        expected = [p for part in parts for p in part.parameters()]
        ours = [p for part in (layer.in_proj, layer.conv, layer.out_proj) for p in part.parameters()]
        assert all(torch.equal(p, value) for p, value in zip(ours, expected, strict=True))
        assert torch.equal(layer.x_proj_weight, x_proj)
        assert torch.equal(layer.dt_proj_weight, dt_proj)
        torch.testing.assert_close(F.softplus(layer.dt_proj_bias), step)

    def test_steps_are_log_uniform(self):
        layer = SS2D(512)
        step = F.softplus(layer.dt_proj_bias.detach().double())
        assert 1e-3 * (1 - 1e-5) < step.min() < 1.05e-3
        assert 0.095 < step.max() < 0.1 * (1 + 1e-5)
        # 4096 draws that are uniform in log, by quartile, agree to five standard deviations.
        quarter = ((step.log() - math.log(1e-3)) / math.log(100) * 4).floor().clamp(0, 3)
        counts = torch.bincount(quarter.flatten().long(), minlength=4) / step.numel()
        assert (counts - 0.25).abs().max() < 5 * (0.25 * 0.75 / step.numel()) ** 0.5

    @pytest.mark.parametrize('dim', [64, 96])
    def test_projections(self, dim):
        layer = SS2D(dim)
        assert layer.dt_proj_weight.shape == (4, 2 * dim, dim // 16)
        assert layer.x_proj_weight.shape == (4 * (dim // 16 + 2), 2 * dim, 1)
        for weight, fan_in in ((layer.dt_proj_weight, dim // 16), (layer.x_proj_weight, 2 * dim)):
            bound = fan_in**-0.5
            assert 0.98 * bound < weight.abs().max() <= bound
            # This is a uniform distribution's, to ten standard errors.
            assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=10 / weight.numel() ** 0.5)

    def test_decays_and_skips(self):
        layer = SS2D(8, state_size=4)
        assert layer.A_log.shape == (64, 4)
        torch.testing.assert_close(layer.A_log.exp(), torch.tensor([[1.0, 2, 3, 4]]).expand(64, 4))
        assert SS2D(8).A_log.eq(0).all()
        assert layer.D.eq(1).all()
        assert layer.D.shape == (64,)

    @pytest.mark.parametrize(('dim', 'rank'), [(1, 1), (16, 1), (17, 2), (396, 25), (636, 40)])
    def test_rank_rounds_up(self, dim, rank):
        with torch.device('meta'):
            assert SS2D(dim).dt_proj_weight.shape[-1] == rank


class TestOptions:
    def test_even_kernel(self):
        with pytest.raises(ValueError, match='SS2D: expected an odd kernel_size, got 4'):
            SS2D(8, kernel_size=4)

    @pytest.mark.parametrize('option', ['expand', 'state_size', 'step_rank', 'kernel_size'])
    @pytest.mark.parametrize('value', [0, -1, 0.5])
    def test_bad_sizes(self, value, option):
        with pytest.raises(ValueError, match=f'SS2D: expected {option} to be an integer of at least 1, got {value}'):
            SS2D(8, **{option: value})

    def test_unknown_norm(self):
        with pytest.raises(ValueError, match="norm: unknown type 'LN'; known ones: BN, SyncBN, GN, LN2d"):
            SS2D(8, norm='LN')

    def test_unknown_backend(self):
        with pytest.raises(ValueError, match="unknown selective-scan backend 'nonesuch'"):
            SS2D(8, backend='nonesuch')(torch.zeros(1, 8, 2, 2))

    def test_a_misspelt_option_is_refused(self):
        with pytest.raises(TypeError, match='state_sise'):
            SS2D(8, state_sise=2)
