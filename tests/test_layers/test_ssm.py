"""SSM and Bi-SSM against the public modules of Mamba and Vim, and against their formulas."""

import pytest
import torch
import torch.nn.functional as F
from helpers import Watch, naive_scan, oracle_outputs, randomise, relative_error
from torch import nn

from mmsparx.layers.basic import init_weights
from mmsparx.layers.mixers import SSM, BiSSM

MIXERS = [SSM, BiSSM]


class Sum(nn.Module):
    """An aggregator."""

    def __init__(self, dim, out_dim):
        super().__init__()
        self.shape = dim, out_dim

    def forward(self, x, *sources):
        return x + sum(sources)


def naive_block(weights, x, average=True):
    """Mamba's block, or Vim's if there are weights of a second direction, position by position."""
    u, z = torch.einsum('od,bdl->bol', weights['in_proj.weight'], x.flatten(2)).chunk(2, 1)
    outs = [naive_direction(weights, u, z, '', 'A_log')]
    if 'A_b_log' in weights:
        back = torch.arange(u.shape[2]).flip(0)
        outs.append(naive_direction(weights, u[:, :, back], z[:, :, back], '_b', 'A_b_log')[:, :, back])
        if average:
            outs = [out / 2 for out in outs]
    return torch.einsum('od,bdl->bol', weights['out_proj.weight'], sum(outs)).view(x.shape)


def naive_direction(weights, u, z, suffix, decay):
    kernel = weights[f'conv1d{suffix}.weight'][:, 0]  # (D, k); its last tap sees the position itself
    size, length = kernel.shape[1], u.shape[2]
    convolved = torch.stack(
        [sum(kernel[:, -1 - back] * u[:, :, t - back] for back in range(min(size, t + 1))) for t in range(length)],
        2,
    )
    u = convolved + weights[f'conv1d{suffix}.bias'][:, None]
    u = u * torch.sigmoid(u)
    A = -torch.exp(weights[decay])
    rank = weights[f'dt_proj{suffix}.weight'].shape[1]
    dt, B, C = torch.einsum('rd,bdl->brl', weights[f'x_proj{suffix}.weight'], u).split([rank, *2 * [A.shape[1]]], 1)
    delta = torch.einsum('dr,brl->bdl', weights[f'dt_proj{suffix}.weight'], dt)
    bias = weights[f'dt_proj{suffix}.bias']
    return naive_scan(u, delta, A, B, C, weights[f'D{suffix}'], z=z, delta_bias=bias, delta_softplus=True)[0]


def build(cls, dim=8, **options):
    return randomise(cls(dim, **options).double())


class TestTruth:
    @pytest.mark.parametrize(('name', 'cls'), [('ssm', SSM), ('bi', BiSSM)])
    def test_public_module(self, name, cls):
        oracle = {key: torch.from_numpy(value) for key, value in oracle_outputs(f'mixer_{name}_2x24x5x7').items()}
        mixer = cls(24).double()
        mixer.load_state_dict(
            {key.removeprefix('weight.'): value for key, value in oracle.items() if key.startswith('weight.')}
        )
        x = oracle['input'].requires_grad_()
        out = mixer(x)
        assert relative_error(out, oracle['output']) < 1e-12
        (out * oracle['output_gradient']).sum().backward()
        assert relative_error(x.grad, oracle['input_gradient']) < 1e-12
        gradients = {name: p.grad for name, p in mixer.named_parameters()}
        assert {f'gradient.{name}' for name in gradients} == {key for key in oracle if key.startswith('gradient.')}
        for name, gradient in gradients.items():
            assert relative_error(gradient, oracle[f'gradient.{name}']) < 1e-12, name

    @pytest.mark.parametrize('cls', MIXERS)
    @pytest.mark.parametrize('size', [(1, 1), (1, 2), (5, 1), (4, 4), (5, 7)], ids=str)
    def test_sizes(self, size, cls):
        mixer, x = build(cls), torch.randn(2, 8, *size, dtype=torch.float64)
        assert relative_error(mixer(x), naive_block(mixer.state_dict(), x)) < 1e-12

    @pytest.mark.parametrize('cls', MIXERS)
    @pytest.mark.parametrize(
        'options',
        [
            {'dim': 33},
            {'expand': 2},
            {'state_size': 1},
            {'step_rank': 5},
            {'kernel_size': 1},
            {'kernel_size': 7},
            {'index': 3},
            {'backend': 'reference'},
        ],
        ids=str,
    )
    def test_options_and_gradients(self, options, cls):
        mixer = build(cls, **options)
        x = torch.randn(2, options.get('dim', 8), 3, 4, dtype=torch.float64, requires_grad=True)
        weights = {name: p.detach().clone().requires_grad_() for name, p in mixer.named_parameters()}
        factor = torch.randn_like(x)
        expected = naive_block(weights, x)
        out = mixer(x)
        assert relative_error(out, expected) < 1e-12
        truth = torch.autograd.grad((expected * factor).sum(), (x, *weights.values()))
        ours = torch.autograd.grad((out * factor).sum(), (x, *mixer.parameters()))
        for name, gradient, wanted in zip(('x', *weights), ours, truth, strict=True):
            assert relative_error(gradient, wanted) < 1e-12, name

    def test_sum_instead_of_average(self):
        mixer, x = build(BiSSM, average=False), torch.randn(2, 8, 3, 4, dtype=torch.float64)
        assert relative_error(mixer(x), naive_block(mixer.state_dict(), x, average=False)) < 1e-12

    def test_a_position_sees_those_before_it(self):
        x = torch.randn(1, 8, 3, 4, dtype=torch.float64)
        moved = x.clone()
        moved[:, :, 1, 2] += 1
        changed = {}
        for cls in MIXERS:
            mixer = build(cls)
            changed[cls] = (mixer(moved) != mixer(x)).any(1).flatten().tolist()
        assert changed[SSM] == [False] * 6 + [True] * 6
        assert changed[BiSSM] == [True] * 12

    @pytest.mark.parametrize('cls', MIXERS)
    def test_an_aggregator_stands_in_front(self, cls):
        mixer = build(cls, aggregator=Sum)
        assert mixer.aggregator.shape == (8, 8)
        x, a, b = torch.randn(3, 2, 8, 3, 4, dtype=torch.float64)
        assert relative_error(mixer(x, a, b), naive_block(mixer.state_dict(), x + a + b)) < 1e-12


class TestPrecision:
    @pytest.mark.parametrize('cls', MIXERS)
    def test_float32_is_close(self, cls):
        mixer, x = build(cls), torch.randn(2, 8, 9, 8, dtype=torch.float64)
        expected = mixer(x)
        assert relative_error(mixer.float()(x.float()), expected) < 1e-6

    @pytest.mark.parametrize('cls', MIXERS)
    @pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'whole'])
    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
    def test_16_bits(self, dtype, autocast, cls):
        mixer, x = build(cls), torch.randn(2, 8, 9, 8, dtype=torch.float64)
        expected = mixer(x)
        mixer = mixer.float() if autocast else mixer.to(dtype)
        x = x.float() if autocast else x.to(dtype)
        with Watch() as watch, torch.autocast('cpu', dtype, enabled=autocast):
            out = mixer(x)
        assert out.dtype == dtype
        # A, D and the step's bias, and all of the scan with its gate, which belongs to its arithmetic.
        assert set(watch.types['mmsparx.selective_scan_fwd.default']) == {torch.float32}
        assert set(watch.types['aten.exp.default']) == {torch.float32}  # of A_log
        # There are some five roundings of 2^-9 or 2^-12 on the way.
        assert relative_error(out, expected) < (2e-2 if dtype == torch.bfloat16 else 3e-3)
        out.float().square().sum().backward()
        assert all(p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in mixer.parameters())

    @pytest.mark.parametrize('cls', MIXERS)
    @pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'whole'])
    def test_a_scan_beyond_float16(self, autocast, cls):
        # The scan grows with the fourth power of its input, and its projection makes it small again.
        mixer = build(cls)
        with torch.no_grad():
            mixer.out_proj.weight.mul_(1e-5)
        x = 40 * torch.randn(2, 8, 9, 8, dtype=torch.float64)
        expected = mixer(x)
        assert mixer.scan(mixer.in_proj(x.flatten(2).transpose(1, 2)).transpose(1, 2)).abs().max() > 65504
        assert expected.abs().max() < 65504
        mixer, x = (mixer.float(), x.float()) if autocast else (mixer.half(), x.half())
        with torch.autocast('cpu', torch.float16, enabled=autocast):
            out = mixer(x)
        assert out.dtype == torch.float16
        assert relative_error(out, expected) < 1e-2  # roundings of 2^-12, to the fourth power

    @pytest.mark.parametrize('cls', MIXERS)
    def test_float64_stays_float64(self, cls):
        mixer, x = build(cls), torch.randn(1, 8, 3, 4, dtype=torch.float64, requires_grad=True)
        with Watch() as watch:
            mixer(x).sum().backward()
        assert watch.floating == {torch.float64}

    @pytest.mark.parametrize('cls', MIXERS)
    def test_compiles_in_one_graph(self, cls):
        mixer, x = build(cls), torch.randn(2, 8, 5, 7, dtype=torch.float64)
        assert relative_error(torch.compile(mixer, fullgraph=True, backend='eager')(x), mixer(x)) < 1e-14


class TestInitialValues:
    @pytest.mark.parametrize('cls', MIXERS)
    def test_scan_parameters_survive_the_networks(self, cls):
        torch.manual_seed(0)
        mixer = cls(64)
        before = {name: p.detach().clone() for name, p in mixer.named_parameters()}
        mixer.apply(init_weights)
        changed = {name for name, p in mixer.named_parameters() if not torch.equal(p, before[name])}
        assert changed == {'in_proj.weight', 'out_proj.weight'}
        for suffix, decay in [('', 'A_log'), ('_b', 'A_b_log')][: 1 + (cls is BiSSM)]:
            step = F.softplus(before[f'dt_proj{suffix}.bias'].double())
            assert 1e-3 * (1 - 1e-5) < step.min() < step.max() < 0.1 * (1 + 1e-5)
            assert before[f'dt_proj{suffix}.weight'].abs().max() <= 0.5  # 4^-0.5
            assert 0.98 * 64**-0.5 < before[f'x_proj{suffix}.weight'].abs().max() <= 64**-0.5
            torch.testing.assert_close(before[decay].exp(), torch.arange(1.0, 17).expand(64, 16))
            assert before[f'D{suffix}'].eq(1).all()

    def test_parameters_of_sparx_mamba_t(self):
        # The mixers of all stages without aggregators, against the formula of the spec.
        for dim in (96, 192, 320, 512):
            with torch.device('meta'):
                counts = [sum(p.numel() for p in cls(dim).parameters()) for cls in MIXERS]
            rank = dim // 16
            direction = 5 * dim + dim * (rank + 32) + rank * dim + dim + 16 * dim + dim
            assert counts == [3 * dim * dim + direction, 3 * dim * dim + 2 * direction]


class TestOptions:
    @pytest.mark.parametrize('cls', MIXERS)
    @pytest.mark.parametrize('option', ['expand', 'state_size', 'step_rank', 'kernel_size'])
    @pytest.mark.parametrize('value', [0, -1, 1.5])
    def test_bad_sizes(self, value, option, cls):
        with pytest.raises(
            ValueError, match=f'{cls.__name__}: expected {option} to be an integer of at least 1, got {value}'
        ):
            cls(8, **{option: value})

    @pytest.mark.parametrize('cls', MIXERS)
    def test_a_misspelt_option_is_refused(self, cls):
        with pytest.raises(TypeError, match='state_sise'):
            cls(8, state_sise=2)

    def test_unknown_backend(self):
        with pytest.raises(ValueError, match="unknown selective-scan backend 'nonesuch'"):
            SSM(8, backend='nonesuch')(torch.zeros(1, 8, 2, 2))
