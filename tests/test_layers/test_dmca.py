"""DMCA against an independent computation, formula by formula."""

import math

import pytest
import torch
from helpers import Watch, randomise, relative_error
from helpers.naive_layers import BN, Naive, check_against, gelu
from torch import nn

from mmsparx.layers.aggregators import DMCA
from mmsparx.layers.aggregators.dmca import LEARNABLE_SCALE_START
from mmsparx.layers.aggregators.parts import channel_attention, interleave


def naive_dmca(weights, x, *sources, reduction, out_dim, groups=4, shortcut=True, training=False):
    """The DMCA of the published checkpoints, from its parameters by name."""
    layer, channels = Naive(weights, training), x.shape[1]

    def project(name, x, *, reduced):
        first = 1 if reduced else 0  # the reducer has a place even where it is the identity
        x = layer.reduce(f'{name}.0', x, reduction) if reduced else x
        return layer.batch_norm(f'{name}.{first + 1}', layer.pointwise(f'{name}.{first}', x))

    y = layer.source_projection(sources)
    q = project('q', x, reduced=True)
    k, v = project('k', y[:, :channels], reduced=True), project('v', y[:, channels:], reduced=False)
    assert q.shape[2:] == tuple(math.ceil(side / reduction) for side in x.shape[2:])
    scale = weights.get('scale', q[0, 0].numel() ** -0.5)
    size, rows = channels // groups, []
    for c in range(channels):
        group = range(c // size * size, (c // size + 1) * size)
        scores = torch.stack([(q[:, c] * k[:, d]).sum((1, 2)) for d in group], 1) * scale  # (B, C / groups)
        attention = torch.exp(scores) / torch.exp(scores).sum(1, keepdim=True)
        rows.append(sum(attention[:, i, None, None] * v[:, d] for i, d in enumerate(group)))
    z = torch.stack(rows, 1)
    if not shortcut:
        return layer.pointwise('mix.2', gelu(layer.depthwise('mix.0', z)))
    return layer.grouped_mix([q if q.shape == x.shape else x, z, v], out_dim)


def build(dim, sources, reduction, **options):
    return randomise(DMCA(dim, 2 * dim, sources, reduction=reduction, norm_cfg=BN, **options).double().eval())


def inputs(dim, sources, size, batch=2):
    return torch.randn(1 + sources, batch, dim, *size, dtype=torch.float64).unbind(0)


class TestTruth:
    @pytest.mark.parametrize('reduction', [1, 2, 4, 8])
    @pytest.mark.parametrize('size', [(1, 1), (1, 5), (4, 4), (5, 7), (8, 9)], ids=str)
    def test_sizes_and_reductions(self, size, reduction):
        # At 1x1, and with a reduction of 1, the query takes the place of the input.
        layer, (x, *sources) = build(12, 2, reduction), inputs(12, 2, size)
        expected = naive_dmca(layer.state_dict(), x, *sources, reduction=reduction, out_dim=24)
        assert relative_error(layer(x, *sources), expected) < 1e-12

    @pytest.mark.parametrize(('dim', 'out_dim', 'missing'), [(12, 24, 0), (8, 16, 1), (16, 32, 2), (4, 11, 2)])
    def test_missing_channels(self, dim, out_dim, missing):
        layer = randomise(DMCA(dim, out_dim, 1, reduction=2, norm_cfg=BN).double().eval())
        x, *sources = inputs(dim, 1, (5, 7))
        assert layer.mix[2].out_channels == out_dim - missing
        out = layer(x, *sources)
        assert out.shape == (2, out_dim, 5, 7)
        assert relative_error(out, naive_dmca(layer.state_dict(), x, *sources, reduction=2, out_dim=out_dim)) < 1e-12
        fused = out[:, : out_dim - missing]
        if missing == 1:
            torch.testing.assert_close(out[:, -1], fused.mean(1))
        if missing == 2:
            # The two bins of an adaptive pooling share the middle channel where the count is odd.
            half = math.ceil(fused.shape[1] / 2)
            torch.testing.assert_close(out[:, -2], fused[:, :half].mean(1))
            torch.testing.assert_close(out[:, -1], fused[:, -half:].mean(1))

    @pytest.mark.parametrize('sources', [1, 2, 5])
    def test_number_of_sources(self, sources):
        layer, (x, *others) = build(8, sources, 2), inputs(8, sources, (4, 6))
        expected = naive_dmca(layer.state_dict(), x, *others, reduction=2, out_dim=16)
        assert relative_error(layer(x, *others), expected) < 1e-12

    def test_order_of_sources_matters(self):
        layer, (x, *sources) = build(8, 2, 2), inputs(8, 2, (4, 6))
        assert relative_error(layer(x, *sources[::-1]), layer(x, *sources)) > 1e-2

    def test_learnable_scale(self):
        layer, (x, *sources) = build(8, 2, 2, learnable_scale=True), inputs(8, 2, (6, 6))
        with torch.no_grad():
            layer.scale.fill_(0.7)
        expected = naive_dmca(layer.state_dict(), x, *sources, reduction=2, out_dim=16)
        assert relative_error(layer(x, *sources), expected) < 1e-12
        layer(x, *sources).sum().backward()
        assert layer.scale.grad.item() != 0

    def test_scale_is_that_of_the_reduced_map(self):
        # N' = 3 * 4 positions for 5x7 and r = 2; 1 / sqrt(N') by the learnable scalar is the same.
        formula, scalar = build(8, 1, 2), DMCA(8, 16, 1, reduction=2, norm_cfg=BN, learnable_scale=True).double().eval()
        scalar.load_state_dict({**formula.state_dict(), 'scale': torch.tensor([12**-0.5])})
        x, source = inputs(8, 1, (5, 7))
        assert relative_error(scalar(x, source), formula(x, source)) < 1e-7  # the scalar came from float32

    def test_learnable_scale_starts_as_published(self):
        scale = DMCA(8, 16, 1, reduction=2, norm_cfg=BN, learnable_scale=True).scale
        assert scale.shape == (1,)
        assert scale.item() == pytest.approx((800 * 1333 / 16 / 64) ** -0.5, rel=1e-7)
        assert pytest.approx(0.030987, abs=1e-6) == LEARNABLE_SCALE_START

    def test_other_numbers_of_groups(self):
        layer, (x, *sources) = build(8, 1, 1, groups=2), inputs(8, 1, (3, 3))
        expected = naive_dmca(layer.state_dict(), x, *sources, reduction=1, out_dim=16, groups=2)
        assert relative_error(layer(x, *sources), expected) < 1e-12

    @pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
    @pytest.mark.parametrize('learnable_scale', [False, True])
    @pytest.mark.parametrize(('dim', 'out_dim', 'reduction'), [(8, 16, 1), (8, 16, 2), (8, 11, 4), (8, 24, 2)])
    def test_gradients(self, dim, out_dim, reduction, learnable_scale, training):
        layer = DMCA(dim, out_dim, 2, reduction=reduction, norm_cfg=BN, learnable_scale=learnable_scale)
        check_against(
            randomise(layer.double().train(training)),
            lambda *args: naive_dmca(*args, reduction=reduction, out_dim=out_dim, training=training),
            inputs(dim, 2, (5, 7)),
        )

    @pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
    @pytest.mark.parametrize(('out_dim', 'reduction'), [(16, 1), (16, 2), (8, 4), (11, 2)])
    def test_without_shortcut(self, out_dim, reduction, training):
        layer = DMCA(8, out_dim, 2, reduction=reduction, norm_cfg=BN, shortcut=False)
        assert layer.mix[2].out_channels == out_dim  # no groups, so no missing channels
        check_against(
            randomise(layer.double().train(training)),
            lambda *args: naive_dmca(*args, reduction=reduction, out_dim=out_dim, shortcut=False, training=training),
            inputs(8, 2, (5, 7)),
        )

    def test_interleave(self):
        maps = torch.arange(12.0).view(3, 1, 4, 1, 1)
        # Channel c * 3 + g of 0..11 moves to g * 4 + c.
        assert interleave(*maps).flatten().tolist() == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]

    @pytest.mark.parametrize(('channels', 'count'), [(1, 3), (2, 3), (3, 3), (4, 3), (320, 3), (5, 2)])
    def test_interleave_without_gradients(self, channels, count):
        maps = [torch.randn(2, channels, 3, 4) for _ in range(count)]
        with torch.no_grad():
            found = interleave(*maps)
        assert found.is_contiguous()
        assert torch.equal(found, interleave(*maps))


class TestInitialValues:
    def test_drawn_in_the_order_of_the_published_code(self):
        # A seed gives the same network in every version.
        torch.manual_seed(3)
        layer = DMCA(8, 16, 2, reduction=2, norm_cfg=BN)
        torch.manual_seed(3)
        convolutions = [
            nn.Conv2d(16, 16, 3, groups=16, bias=False),
            nn.Conv2d(16, 16, 1),
            nn.Conv2d(8, 8, 3, groups=8, bias=False),  # of q
            nn.Conv2d(8, 8, 1, bias=False),
            nn.Conv2d(8, 8, 3, groups=8, bias=False),  # of k
            nn.Conv2d(8, 8, 1, bias=False),
            nn.Conv2d(8, 8, 1, bias=False),  # of v
            nn.Conv2d(24, 24, 3, groups=24),
            nn.Conv2d(24, 15, 1, groups=3),
        ]
        ours = [p for m in layer.modules() if isinstance(m, nn.Conv2d) for p in m.parameters()]
        expected = [p for m in convolutions for p in m.parameters()]
        assert all(torch.equal(p, value) for p, value in zip(ours, expected, strict=True))

    def test_parameter_names(self):
        names = set(DMCA(8, 16, 2, reduction=2, norm_cfg=BN, learnable_scale=True).state_dict())
        assert {name.partition('.')[0] for name in names} == {
            'scale',
            'source_norm',
            'source_proj',
            'q',
            'k',
            'v',
            'mix',
        }
        assert {'q.0.0.weight', 'k.1.weight', 'v.1.bias', 'mix.0.bias', 'mix.2.weight', 'source_proj.3.bias'} <= names


class TestPrecision:
    def test_float32_is_close(self):
        layer, features = build(8, 2, 2), inputs(8, 2, (7, 9))
        expected = layer(*features)
        assert relative_error(layer.float()(*(x.float() for x in features)), expected) < 1e-6

    @pytest.mark.parametrize('autocast', [True, False])
    def test_bfloat16(self, autocast):
        layer, features = build(8, 2, 2), inputs(8, 2, (7, 9))
        expected = layer(*features)
        if autocast:
            layer.float()
            with torch.autocast('cpu', dtype=torch.bfloat16):
                out = layer(*(x.float() for x in features))
        else:
            out = layer.bfloat16()(*(x.bfloat16() for x in features))
        assert out.dtype == torch.bfloat16
        # There are some ten roundings of 2^-9 on the way.
        assert relative_error(out, expected) < 2e-2

    @pytest.mark.parametrize('autocast', [True, False])
    def test_attention_is_in_float32_up_to_the_softmax(self, autocast):
        layer, features = build(8, 2, 2), [x.float() for x in inputs(8, 2, (7, 9))]
        if not autocast:
            layer, features = layer.bfloat16(), [x.bfloat16() for x in features]
        with Watch() as watch, torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
            layer.float()(*features) if autocast else layer(*features)
        assert watch.types['aten.bmm.default'] == [torch.float32] * 3 + [torch.bfloat16] * 3  # two products of two
        assert watch.types['aten._softmax.default'] == [torch.float32] * 2
        assert set(watch.types['aten.convolution.default']) == {torch.bfloat16}

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_attention_in_16_bits(self, dtype):
        data = [torch.randn(shape).to(dtype) for shape in [(2, 24, 5, 5)] * 2 + [(2, 24, 9, 7)] * 2]
        results = []
        for exact in (dtype, torch.float64):
            *inputs, grad = (x.to(exact) for x in data)
            inputs = [x.requires_grad_() for x in inputs]
            out = channel_attention(*inputs, 4, None)
            results.append([out, *torch.autograd.grad(out, inputs, grad)])
        # There are two roundings: of the weights, or of their gradient, and of the result.
        assert all(relative_error(a, b) < torch.finfo(dtype).eps for a, b in zip(*results, strict=True))

    def test_attention_of_large_values_does_not_overflow_16_bits(self):
        # 300^2 * 64 positions exceed float16's 65504, and the scale comes after the product.
        q = k = torch.full((1, 8, 8, 8), 300.0, dtype=torch.float16)
        v = torch.arange(8.0).half()[None, :, None, None].expand(1, 8, 8, 8)
        out = channel_attention(q, k, v, 4, None)
        assert out.dtype == torch.float16
        assert out.isfinite().all()


class TestOptions:
    def test_norm_cfg_reaches_every_batch_norm(self):
        layer = DMCA(8, 16, 1, reduction=2, norm_cfg={'type': 'SyncBN', 'eps': 1e-3, 'requires_grad': False})
        norms = [m for m in layer.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        assert len(norms) == 6  # source_proj, q, k, v, and both reducers
        assert all(type(m) is torch.nn.SyncBatchNorm and m.eps == 1e-3 for m in norms)
        assert not any(p.requires_grad for m in norms for p in m.parameters())
        assert layer.source_norm.weight.requires_grad
