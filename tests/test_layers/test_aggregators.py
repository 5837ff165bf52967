"""The aggregators besides DMCA against independent computations, and properties of all aggregators."""

import pytest
import torch
from helpers import Watch, randomise, relative_error
from helpers.naive_layers import BN, Naive, check_against, token_attention
from torch import nn

from mmsparx.layers.aggregators import DMCA, SCA, SRA, Concat, NoAttention

SIZES = [(1, 1), (1, 5), (4, 4), (5, 7)]
VARIANTS = {
    'DMCA': (DMCA, {}),
    'DMCA without shortcut': (DMCA, {'shortcut': False}),
    'Concat': (Concat, {}),
    'NoAttention': (NoAttention, {}),
    'SRA': (SRA, {}),
    'SCA': (SCA, {}),
    'SCA with own tokens': (SCA, {'own_tokens': True}),
}


@pytest.fixture(params=VARIANTS)
def variant(request):
    """Builds an aggregator as a network does."""
    cls, options = VARIANTS[request.param]
    return lambda *shape, reduction=2, norm_cfg=BN, **more: cls(
        *shape, reduction=reduction, norm_cfg=norm_cfg, **options, **more
    )


def build(cls, *shape, reduction=1, training=False, **options):
    return randomise(cls(*shape, reduction=reduction, norm_cfg=BN, **options).double().train(training))


def inputs(dim, sources, size, batch=2):
    return list(torch.randn(1 + sources, batch, dim, *size, dtype=torch.float64).unbind(0))


def naive_concat(weights, x, *sources):
    layer = Naive(weights)
    return layer.conv_ffn('mix', layer.map_norm('norm', torch.cat((x, *sources), 1)))


def naive_no_attention(weights, x, *sources, training):
    layer = Naive(weights, training)
    value = layer.source_projection(sources)
    query, value = (
        layer.batch_norm(f'{name}.1', layer.pointwise(f'{name}.0', y)) for name, y in (('q', x), ('v', value))
    )
    return layer.conv_ffn('mix', torch.cat((query, value), 1))


def naive_sra(weights, x, *sources, reduction, out_dim, training, heads=4):
    layer = Naive(weights, training)

    def project(name, y):
        return layer.batch_norm(f'{name}.1', layer.pointwise(f'{name}.0', y))

    y = layer.source_projection(sources)
    full = project('v', y[:, x.shape[1] :])
    key = project('k', layer.reduce('reduce', y[:, : x.shape[1]], reduction))
    z = token_attention(project('q', x), [key], [layer.reduce('reduce', full, reduction)], heads)
    return layer.grouped_mix([x, z, full], out_dim)


def naive_sca(weights, x, *sources, reduction, training, heads=4):
    layer, dim = Naive(weights, training), x.shape[1]
    y = layer.reduce('reduce', layer.map_norm('source_norm', torch.cat(sources, 1)), reduction)
    kv = layer.pointwise('kv', y)
    z = layer.pointwise('proj', token_attention(layer.pointwise('q', x), [kv[:, :dim]], [kv[:, dim:]], heads))
    return layer.pointwise('mix', torch.cat((x, z), 1))


def naive_sca_own_tokens(weights, x, *sources, reduction, training, heads=4):
    layer, dim = Naive(weights, training), x.shape[1]
    y = layer.reduce('reduce', layer.map_norm('source_norm', torch.cat(sources, 1)), reduction)
    qkv = layer.pointwise('qkv', x)
    kvs = [qkv[:, dim:]] + [layer.pointwise(f'kv.{i}', y[:, i * dim : (i + 1) * dim]) for i in range(len(sources))]
    z = token_attention(qkv[:, :dim], [kv[:, :dim] for kv in kvs], [kv[:, dim:] for kv in kvs], heads)
    return layer.pointwise('mix', layer.pointwise('proj', z))


class TestConcat:
    @pytest.mark.parametrize('size', SIZES, ids=str)
    @pytest.mark.parametrize(('sources', 'out_dim'), [(1, 16), (3, 8)])
    def test_values_and_gradients(self, sources, out_dim, size):
        check_against(build(Concat, 8, out_dim, sources), naive_concat, inputs(8, sources, size))

    def test_input_comes_first(self):
        x, source = inputs(8, 1, (4, 4))
        layer = build(Concat, 8, 16, 1)
        assert relative_error(layer(source, x), layer(x, source)) > 1e-2


class TestNoAttention:
    @pytest.mark.parametrize(('size', 'training'), [*((size, False) for size in SIZES), ((5, 7), True)], ids=str)
    @pytest.mark.parametrize(('sources', 'out_dim'), [(1, 16), (3, 8)])
    def test_values_and_gradients(self, sources, out_dim, size, training):
        check_against(
            build(NoAttention, 8, out_dim, sources, training=training),
            lambda *args: naive_no_attention(*args, training=training),
            inputs(8, sources, size),
        )


class TestSRA:
    @pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
    @pytest.mark.parametrize('reduction', [1, 2, 4])
    @pytest.mark.parametrize('size', [(4, 6), (5, 7)], ids=str)
    def test_values_and_gradients(self, size, reduction, training):
        # A constant added to all keys changes no softmax.
        check_against(
            build(SRA, 8, 16, 2, reduction=reduction, training=training),
            lambda *args: naive_sra(*args, reduction=reduction, out_dim=16, training=training),
            inputs(8, 2, size),
            without_effect=('k.1.bias',),
        )

    @pytest.mark.parametrize('size', [(1, 1), (1, 2), (2, 2)], ids=str)
    def test_one_key(self, size):
        # Softmax over one position is 1, whatever the query is.
        check_against(
            build(SRA, 8, 16, 1, reduction=2),
            lambda *args: naive_sra(*args, reduction=2, out_dim=16, training=False),
            inputs(8, 1, size),
            without_effect=('k.1.bias',),
        )

    @pytest.mark.parametrize(('dim', 'out_dim'), [(8, 8), (12, 24), (4, 12), (4, 11)])
    def test_missing_channels(self, dim, out_dim):
        check_against(
            build(SRA, dim, out_dim, 1, reduction=2),
            lambda *args: naive_sra(*args, reduction=2, out_dim=out_dim, training=False),
            inputs(dim, 1, (4, 5)),
            without_effect=('k.1.bias',),
        )

    def test_input_is_kept_where_nothing_is_reduced(self):
        # Unlike in DMCA, the query has no effect if the attention's and the values' part of the mix are 0.
        layer = build(SRA, 8, 24, 1)
        with torch.no_grad():
            kept = torch.zeros(3 * 8)
            for c in range(8):
                kept[(c % 3) * 8 + c // 3] = 1  # where the interleave puts channel c of the input
            layer.mix[0].weight.mul_(kept.view(-1, 1, 1, 1))
            x, source = inputs(8, 1, (4, 4))
            before = layer(x, source)
            layer.q[0].weight.mul_(2)
            assert torch.equal(layer(x, source), before)
            assert relative_error(layer(2 * x, source), before) > 1e-2


class TestSCA:
    @pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
    @pytest.mark.parametrize('reduction', [1, 2, 4])
    @pytest.mark.parametrize('size', [(4, 6), (5, 7)], ids=str)
    @pytest.mark.parametrize('own_tokens', [False, True])
    def test_values_and_gradients(self, own_tokens, size, reduction, training):
        naive = naive_sca_own_tokens if own_tokens else naive_sca
        check_against(
            build(SCA, 8, 16, 2, reduction=reduction, training=training, own_tokens=own_tokens),
            lambda *args: naive(*args, reduction=reduction, training=training),
            inputs(8, 2, size),
        )

    @pytest.mark.parametrize('own_tokens', [False, True])
    def test_one_position(self, own_tokens):
        naive = naive_sca_own_tokens if own_tokens else naive_sca
        check_against(
            build(SCA, 8, 8, 3, reduction=2, own_tokens=own_tokens),
            lambda *args: naive(*args, reduction=2, training=False),
            inputs(8, 3, (1, 1)),
        )

    def test_own_tokens_are_attended(self):
        layer, (x, *sources) = build(SCA, 8, 16, 1, own_tokens=True), inputs(8, 1, (4, 4))
        with torch.no_grad():
            layer.kv[0].weight.zero_()
            layer.kv[0].bias[:8] = -1e4 * layer.qkv(x)[0, :8].mean((1, 2))  # keys far from the first sample's queries
            moved = x.clone()
            moved[0, :, 0, 0] += 1
            assert (layer(moved, *sources) - layer(x, *sources))[0, :, 3, 3].norm() > 1e-6


class TestParameters:
    """Ganglion layers of SparX-Mamba-T in the paper's ablations, (channels, sources, reduction)."""

    LAYERS = [(192, 2, 4), (320, 1, 2), (320, 2, 2), (320, 3, 2), (320, 4, 2), (512, 1, 1), (512, 1, 1)]

    @pytest.mark.parametrize(
        ('name', 'network'),
        [
            ('DMCA', 27_051_794),
            ('DMCA without shortcut', 27_004_184),
            ('Concat', 27_900_696),
            ('NoAttention', 26_309_400),
            ('SRA', 27_032_530),
            ('SCA', 27_896_344),
            ('SCA with own tokens', 27_905_560),
        ],
    )
    def test_network_totals(self, name, network):
        def count(cls, **options):
            with torch.device('meta'):
                layers = [cls(c, 2 * c, m, reduction=r, norm_cfg=BN, **options) for c, m, r in self.LAYERS]
            return sum(p.numel() for layer in layers for p in layer.parameters())

        cls, options = VARIANTS[name]
        assert 27_051_794 - count(DMCA) + count(cls, **options) == network

    def test_no_reduction(self):
        with torch.device('meta'):
            saved = sum(
                sum(p.numel() for p in DMCA(c, 2 * c, m, reduction=r, norm_cfg=BN).parameters())
                - sum(p.numel() for p in DMCA(c, 2 * c, m, reduction=1, norm_cfg=BN).parameters())
                for c, m, r in self.LAYERS
            )
        assert 27_051_794 - saved == 27_013_266


class TestAll:
    @pytest.mark.parametrize('out_dim', [8, 16, 24])
    @pytest.mark.parametrize('size', [(1, 1), (3, 8), (9, 5)], ids=str)
    def test_shapes(self, variant, size, out_dim):
        layer = variant(8, out_dim, 3).eval()
        assert layer(*torch.randn(4, 2, 8, *size)).shape == (2, out_dim, *size)

    def test_order_of_sources_matters(self, variant):
        layer, (x, a, b) = randomise(variant(8, 16, 2).double().eval()), inputs(8, 2, (4, 6))
        assert relative_error(layer(x, b, a), layer(x, a, b)) > 1e-3

    def test_samples_do_not_mix(self, variant):
        layer, maps = randomise(variant(8, 16, 2).double().eval()), inputs(8, 2, (4, 6))
        assert relative_error(layer(*(x[1:] for x in maps)), layer(*maps)[1:]) < 1e-13

    def test_gradients_reach_every_parameter_and_input(self, variant):
        layer, maps = variant(8, 16, 2), [x.float().requires_grad_() for x in inputs(8, 2, (6, 6), batch=4)]
        layer(*maps).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
        # A bias of all keys changes no softmax over them (SRA), so its gradient is only rounding.
        idle = {name for name, p in layer.named_parameters() if not p.grad.any()}
        assert idle <= {'k.1.bias'}
        assert all(x.grad.any() for x in maps)

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=['fp16', 'bf16'])
    @pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'whole'])
    def test_16_bits(self, variant, autocast, dtype):
        layer, maps = randomise(variant(8, 16, 2).double().eval()), inputs(8, 2, (7, 9))
        expected = layer(*maps)
        layer = layer.float() if autocast else layer.to(dtype)
        maps = [x.float() if autocast else x.to(dtype) for x in maps]
        with torch.autocast('cpu', dtype, enabled=autocast):
            out = layer(*maps)
        assert out.dtype == dtype
        # There are some ten roundings of 2^-9 or 2^-12 on the way.
        assert relative_error(out, expected) < (2e-2 if dtype == torch.bfloat16 else 3e-3)
        out.float().square().sum().backward()
        assert all(p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in layer.parameters())

    def test_large_values_in_float16(self, variant):
        # The scores exceed 65504, if there is attention.
        layer, maps = variant(8, 16, 2).half().eval(), [300 * x.half() for x in inputs(8, 2, (7, 9))]
        assert layer(*maps).isfinite().all()

    def test_softmax_is_never_in_16_bits(self, variant):
        layer, maps = variant(8, 16, 2).bfloat16(), [x.bfloat16() for x in inputs(8, 2, (7, 9))]
        with Watch() as watch:
            layer(*maps)
        assert set(watch.types.get('aten._softmax.default', ())) <= {torch.float32}

    def test_float64_stays_float64(self, variant):
        layer, maps = variant(8, 16, 2).double(), [x.requires_grad_() for x in inputs(8, 2, (3, 4))]
        with Watch() as watch:
            layer(*maps).sum().backward()
        assert watch.floating == {torch.float64}

    def test_compiles_in_one_graph(self, variant):
        layer, maps = variant(8, 16, 2).double().eval(), inputs(8, 2, (5, 7))
        compiled = torch.compile(layer, fullgraph=True, backend='eager')
        assert relative_error(compiled(*maps), layer(*maps)) < 1e-14

    def test_a_misspelt_option_is_refused(self, variant):
        with pytest.raises(TypeError, match='headz'):
            variant(8, 16, 1, headz=2)

    def test_norm_cfg_reaches_every_batch_norm(self, variant):
        layer = variant(8, 16, 2, norm_cfg={'type': 'SyncBN', 'eps': 1e-3, 'requires_grad': False})
        norms = [m for m in layer.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert all(type(m) is nn.SyncBatchNorm and m.eps == 1e-3 for m in norms)
        assert not any(p.requires_grad for m in norms for p in m.parameters())


@pytest.mark.parametrize(('cls', 'option'), [(DMCA, 'groups'), (SRA, 'heads'), (SCA, 'heads')])
@pytest.mark.parametrize('count', [4, 0, -1])
def test_heads_that_do_not_divide(cls, option, count):
    with pytest.raises(ValueError, match=f'{cls.__name__}: expected {option} that divide the 10 channels, got'):
        cls(10, 20, 1, reduction=1, norm_cfg=BN, **{option: count})


@pytest.mark.parametrize('cls', [DMCA, SRA, SCA])
def test_a_reduction_below_1(cls):
    with pytest.raises(ValueError, match='expected a reduction of at least 1, got 0'):
        cls(8, 16, 1, reduction=0, norm_cfg=BN)
