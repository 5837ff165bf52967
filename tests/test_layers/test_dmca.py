"""DMCA against an independent computation, a formula at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import Watch, randomise, relative_error

from mmsparx.layers.aggregators import DMCA
from mmsparx.layers.aggregators.dmca import LEARNABLE_SCALE_START

BN = {'type': 'BN'}


def naive_dmca(weights, x, sources, reduction, out_dim, groups=4):
    """The DMCA of the published checkpoints from its parameters by name; batch norms in eval mode."""

    def conv(name, x, **options):
        return F.conv2d(x, weights[f'{name}.weight'], weights.get(f'{name}.bias'), **options)

    def bn(name, x):
        mean, var, weight, bias = (
            weights[f'{name}.{leaf}'][:, None, None] for leaf in ('running_mean', 'running_var', 'weight', 'bias')
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def gelu(x):
        return x / 2 * (1 + torch.erf(x / math.sqrt(2)))

    def depthwise(name, x, **options):
        return conv(name, x, groups=x.shape[1], **options)

    batch, channels, height, width = x.shape
    stacked = torch.cat(sources, 1)
    mean = stacked.mean((1, 2, 3), keepdim=True)
    var = (stacked - mean).square().mean((1, 2, 3), keepdim=True)
    normed = (stacked - mean) / (var + 1e-5).sqrt()
    normed = normed * weights['source_norm.weight'][:, None, None] + weights['source_norm.bias'][:, None, None]
    y = gelu(bn('source_proj.1', depthwise('source_proj.0', normed, padding=1)))
    y = gelu(conv('source_proj.3', y))
    k, v = y[:, :channels], y[:, channels:]

    def project(name, x, *, reduced):
        if not reduced or reduction == 1:
            # The reducer of stride 1 is the identity, which has a place but no parameters.
            first = 1 if reduced else 0
            return bn(f'{name}.{first + 1}', conv(f'{name}.{first}', x))
        r = reduction
        x = gelu(bn(f'{name}.0.1', depthwise(f'{name}.0.0', x, stride=r, padding=(r + 1) // 2)))
        assert x.shape[2:] == (math.ceil(height / r), math.ceil(width / r))
        return bn(f'{name}.2', conv(f'{name}.1', x))

    q, k, v = project('q', x, reduced=True), project('k', k, reduced=True), project('v', v, reduced=False)
    scale = weights.get('scale', q[0, 0].numel() ** -0.5)
    z = torch.empty_like(v)
    for g in range(groups):
        part = slice(g * channels // groups, (g + 1) * channels // groups)
        scores = torch.einsum('bchw,bdhw->bcd', q[:, part], k[:, part]) * scale
        z[:, part] = torch.einsum('bcd,bdhw->bchw', scores.softmax(-1), v[:, part])

    x = q if q.shape[2:] == x.shape[2:] else x
    concatenated = torch.cat((x, z, v), 1)
    interleaved = torch.empty_like(concatenated)
    for c in range(channels):
        for g in range(3):
            interleaved[:, g * channels + c] = concatenated[:, c * 3 + g]
    fused = conv('mix.2', gelu(depthwise('mix.0', interleaved, padding=1)), groups=3)
    missing = out_dim - fused.shape[1]
    if missing:
        flat = fused.permute(0, 2, 3, 1).reshape(batch, height * width, -1)
        pooled = F.adaptive_avg_pool1d(flat, missing).view(batch, height, width, missing).permute(0, 3, 1, 2)
        fused = torch.cat((fused, pooled), 1)
    return fused


def build(dim, sources, reduction, **options):
    return randomise(DMCA(dim, 2 * dim, sources, reduction=reduction, norm_cfg=BN, **options).double().eval())


def inputs(dim, sources, size, batch=2):
    return torch.randn(1 + sources, batch, dim, *size, dtype=torch.float64).unbind(0)


class TestTruth:
    @pytest.mark.parametrize('reduction', [1, 2, 4, 8])
    @pytest.mark.parametrize('size', [(1, 1), (1, 5), (4, 4), (5, 7), (8, 9)], ids=str)
    def test_sizes_and_reductions(self, size, reduction):
        # At 1x1, and for a reduction of 1, the query takes the input's place.
        layer, (x, *sources) = build(12, 2, reduction), inputs(12, 2, size)
        expected = naive_dmca(layer.state_dict(), x, sources, reduction, 24)
        assert relative_error(layer(x, *sources), expected) < 1e-12

    @pytest.mark.parametrize(('dim', 'out_dim', 'missing'), [(12, 24, 0), (8, 16, 1), (16, 32, 2), (4, 11, 2)])
    def test_missing_channels(self, dim, out_dim, missing):
        layer = randomise(DMCA(dim, out_dim, 1, reduction=2, norm_cfg=BN).double().eval())
        x, *sources = inputs(dim, 1, (5, 7))
        assert layer.mix[2].out_channels == out_dim - missing
        out = layer(x, *sources)
        assert out.shape == (2, out_dim, 5, 7)
        assert relative_error(out, naive_dmca(layer.state_dict(), x, sources, 2, out_dim)) < 1e-12
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
        assert relative_error(layer(x, *others), naive_dmca(layer.state_dict(), x, others, 2, 16)) < 1e-12

    def test_order_of_sources_matters(self):
        layer, (x, *sources) = build(8, 2, 2), inputs(8, 2, (4, 6))
        assert relative_error(layer(x, *sources[::-1]), layer(x, *sources)) > 1e-2

    def test_learnable_scale(self):
        layer, (x, *sources) = build(8, 2, 2, learnable_scale=True), inputs(8, 2, (6, 6))
        with torch.no_grad():
            layer.scale.fill_(0.7)
        assert relative_error(layer(x, *sources), naive_dmca(layer.state_dict(), x, sources, 2, 16)) < 1e-12
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
        assert relative_error(layer(x, *sources), naive_dmca(layer.state_dict(), x, sources, 1, 16, groups=2)) < 1e-12

    def test_gradients(self):
        layer = DMCA(4, 8, 2, reduction=2, norm_cfg=BN, learnable_scale=True).double().eval()
        randomise(layer)
        features = [x.clone().requires_grad_() for x in inputs(4, 2, (3, 3), batch=1)]
        assert torch.autograd.gradcheck(layer, features)


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
        # Some ten roundings of 2^-9 on the way.
        assert relative_error(out, expected) < 2e-2

    @pytest.mark.parametrize('autocast', [True, False])
    def test_attention_is_computed_in_float32(self, autocast):
        layer, features = build(8, 2, 2), [x.float() for x in inputs(8, 2, (7, 9))]
        if not autocast:
            layer, features = layer.bfloat16(), [x.bfloat16() for x in features]
        with Watch() as watch, torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
            layer.float()(*features) if autocast else layer(*features)
        assert watch.types['aten.bmm.default'] == [torch.float32] * 6  # two products of two
        assert watch.types['aten._softmax.default'] == [torch.float32] * 2
        assert set(watch.types['aten.convolution.default']) == {torch.bfloat16}

    def test_attention_of_large_values_does_not_overflow_16_bits(self):
        # 300^2 * 64 positions exceed float16's 65504, and the scale comes after the product.
        layer = build(8, 1, 1).float()
        q = k = torch.full((1, 8, 8, 8), 300.0, dtype=torch.float16)
        v = torch.arange(8.0).half()[None, :, None, None].expand(1, 8, 8, 8)
        out = layer._attend(q, k, v)
        assert out.dtype == torch.float16
        assert out.isfinite().all()


class TestOptions:
    def test_channels_that_groups_do_not_divide(self):
        with pytest.raises(ValueError, match='expected channels that 4 attention groups divide, got 10'):
            DMCA(10, 20, 1, reduction=1, norm_cfg=BN)

    def test_norm_cfg_reaches_every_batch_norm(self):
        layer = DMCA(8, 16, 1, reduction=2, norm_cfg={'type': 'SyncBN', 'eps': 1e-3, 'requires_grad': False})
        norms = [m for m in layer.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        assert len(norms) == 6  # source_proj, q, k, v, and both reducers
        assert all(type(m) is torch.nn.SyncBatchNorm and m.eps == 1e-3 for m in norms)
        assert not any(p.requires_grad for m in norms for p in m.parameters())
        assert layer.source_norm.weight.requires_grad

    def test_a_misspelt_option_is_refused(self):
        with pytest.raises(TypeError, match='learnable_scal'):
            DMCA(8, 16, 1, reduction=1, norm_cfg=BN, learnable_scal=True)
