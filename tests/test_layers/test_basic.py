"""The small modules and the norms."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import randomise, relative_error
from torch import nn

from mmsparx.analysis import traffic
from mmsparx.analysis.saved import kept_bytes
from mmsparx.layers.basic import (
    DOWNSAMPLES,
    FFN,
    FFNS,
    STEMS,
    ChannelScale,
    ConvFFN,
    DepthwiseConv2d,
    DropPath,
    PatchMerging,
    init_weights,
    pad_to_multiple,
)
from mmsparx.layers.norm import NORMS, ChannelLayerNorm, MapNorm, build_norm, map_norm

BN = {'type': 'BN'}


class TestStems:
    @pytest.mark.parametrize(('name', 'norm'), [('conv', nn.BatchNorm2d), ('conv_ln', ChannelLayerNorm)])
    @pytest.mark.parametrize('depth', [2, 3])
    def test_convolutions(self, depth, name, norm):
        layers = list(STEMS[name](3, 12, depth, BN))
        convolutions = [m for m in layers if isinstance(m, nn.Conv2d)]
        widths = [(3, 6), (6, 6), (6, 12)] if depth == 3 else [(3, 6), (6, 12)]
        strides = [2, 1, 2] if depth == 3 else [2, 2]
        assert [(m.in_channels, m.out_channels) for m in convolutions] == widths
        assert [m.stride[0] for m in convolutions] == strides
        assert all(m.kernel_size == (3, 3) and m.padding == (1, 1) for m in convolutions)
        assert all((m.bias is not None) == (name == 'conv_ln') for m in convolutions)
        kinds = [nn.Conv2d, norm, nn.GELU] * depth
        assert [type(m) for m in layers] == kinds[:-1]
        assert all(m.approximate == 'none' for m in layers if isinstance(m, nn.GELU))
        assert all(m.eps == 1e-5 for m in layers if isinstance(m, norm))

    @pytest.mark.parametrize('name', ['conv', 'conv_ln'])
    def test_one_convolution_is_too_few(self, name):
        with pytest.raises(ValueError, match='expected a depth of at least 2 convolutions'):
            STEMS[name](3, 12, 1, BN)

    @pytest.mark.parametrize('name', STEMS)
    @pytest.mark.parametrize(('side', 'out'), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (7, 2), (32, 8), (33, 9)])
    def test_an_odd_side_rounds_up(self, side, out, name):
        stem = STEMS[name](3, 8, 2, BN).eval()
        assert stem(torch.randn(1, 3, side, 8)).shape == (1, 8, out, 2)
        assert stem(torch.randn(1, 3, 8, side)).shape == (1, 8, 2, out)

    def test_patch_by_hand(self):
        stem = STEMS['patch'](3, 8, 2, BN).double()
        assert [type(m) for m in stem] == [nn.Conv2d, ChannelLayerNorm]
        with torch.no_grad():
            stem[1].weight.normal_()
            stem[1].bias.normal_()
        x = torch.randn(2, 3, 6, 9, dtype=torch.float64)
        padded = torch.zeros(2, 3, 8, 12, dtype=torch.float64)
        padded[:, :, :6, :9] = x
        out = torch.empty(2, 8, 2, 3, dtype=torch.float64)
        for i in range(2):
            for j in range(3):
                patch = padded[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].flatten(1)
                out[:, :, i, j] = patch @ stem[0].weight.detach().flatten(1).t() + stem[0].bias.detach()
        out = (out - out.mean(1, keepdim=True)) / (out.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        out = out * stem[1].weight[:, None, None] + stem[1].bias[:, None, None]
        assert relative_error(stem(x), out) < 1e-13

    @pytest.mark.parametrize('size', [(16, 12), (15, 9), (1, 1)], ids=str)
    def test_patch_is_that_of_timm(self, size):
        layers = pytest.importorskip('timm.layers', reason='it has the same stem')
        theirs = layers.PatchEmbed(None, 4, 3, 8, nn.LayerNorm, flatten=False, output_fmt='NHWC', dynamic_img_pad=True)
        theirs, ours = theirs.double(), STEMS['patch'](3, 8, 2, BN).double()
        with torch.no_grad():
            theirs.norm.weight.normal_()
            theirs.norm.bias.normal_()
        ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        assert relative_error(ours(x), theirs(x).permute(0, 3, 1, 2)) < 1e-13


class TestDownsamples:
    @pytest.mark.parametrize('name', DOWNSAMPLES)
    @pytest.mark.parametrize(('side', 'out'), [(1, 1), (2, 1), (7, 4), (8, 4)])
    def test_an_odd_side_rounds_up(self, side, out, name):
        downsample = DOWNSAMPLES[name](4, 6, BN).eval()
        assert downsample(torch.randn(1, 4, side, 2)).shape == (1, 6, out, 1)
        assert downsample(torch.randn(1, 4, 2, side)).shape == (1, 6, 1, out)

    def test_convolutions(self):
        plain, ln = DOWNSAMPLES['conv'](4, 6, BN), DOWNSAMPLES['conv_ln'](4, 6, BN)
        assert [type(m) for m in plain] == [nn.Conv2d, nn.BatchNorm2d]
        assert [type(m) for m in ln] == [nn.Conv2d, ChannelLayerNorm]
        assert plain[0].bias is None
        assert ln[0].bias is not None
        assert all(m[0].stride == (2, 2) and m[0].kernel_size == (3, 3) and m[0].padding == (1, 1) for m in (plain, ln))

    @pytest.mark.parametrize('size', [(4, 6), (5, 7), (1, 2), (1, 1)], ids=str)
    def test_patch_merging_is_that_of_timm(self, size):
        swin = pytest.importorskip('timm.models.swin_transformer', reason='it has the same downsampling')
        theirs, ours = swin.PatchMerging(4, 6).double(), PatchMerging(4, 6, BN).double()
        with torch.no_grad():
            theirs.norm.weight.normal_()
            theirs.norm.bias.normal_()
        weights = theirs.state_dict()
        ours.load_state_dict({**weights, 'reduction.weight': weights['reduction.weight'][:, :, None, None]})
        x = torch.randn(2, 4, *size, dtype=torch.float64)
        assert relative_error(ours(x), theirs(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)) < 1e-13

    def test_patch_merging_goes_column_by_column(self):
        merging = PatchMerging(1, 4, BN)
        merging.norm = nn.Identity()
        with torch.no_grad():
            merging.reduction.weight.copy_(torch.eye(4)[:, :, None, None])
        x = torch.tensor([[1.0, 2], [3, 4]]).view(1, 1, 2, 2)
        assert merging(x).flatten().tolist() == [1, 3, 2, 4]
        assert merging(x[:, :, :1]).flatten().tolist() == [1, 0, 2, 0]


def test_pad_to_multiple():
    x = torch.ones(1, 1, 3, 4)
    padded = pad_to_multiple(x, 4)
    assert padded[0, 0].tolist() == [[1] * 4] * 3 + [[0] * 4]
    assert pad_to_multiple(padded, 4) is padded


class TestFFN:
    def test_by_hand(self):
        ffn = FFN(2).double()
        assert ffn.fc1.weight.shape == (8, 2, 1, 1)
        x = torch.randn(2, 2, 4, 5, dtype=torch.float64)
        h = torch.einsum('oc,bchw->bohw', ffn.fc1.weight[:, :, 0, 0], x) + ffn.fc1.bias[:, None, None]
        h = h / 2 * (1 + torch.erf(h / math.sqrt(2)))
        expected = torch.einsum('oc,bchw->bohw', ffn.fc2.weight[:, :, 0, 0], h) + ffn.fc2.bias[:, None, None]
        assert relative_error(ffn(x), expected) < 1e-12

    def test_hidden(self):
        assert FFN(4, hidden=6).fc2.weight.shape == (4, 6, 1, 1)
        assert {'conv': ConvFFN, 'plain': FFN} == FFNS


class TestDepthwiseConv2d:
    @pytest.mark.parametrize('kernel_size', [3, 5, 7])
    @pytest.mark.parametrize('residual', [False, True])
    @pytest.mark.parametrize(('activation', 'then'), [('none', nn.Identity), ('gelu', nn.GELU), ('silu', nn.SiLU)])
    def test_a_convolution_with_residual_and_activation(self, activation, then, residual, kernel_size):
        conv = nn.Conv2d(3, 3, kernel_size, padding=kernel_size // 2, groups=3).double()
        ours = DepthwiseConv2d(3, kernel_size, residual=residual, activation=activation).double()
        ours.load_state_dict(conv.state_dict())
        x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
        assert relative_error(ours(x), then()(conv(x) + residual * x)) < 1e-13
        assert f'residual={residual}, activation={activation}' in repr(ours)

    def test_initial_values_are_the_convolutions(self):
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        torch.manual_seed(0)
        ours = DepthwiseConv2d(3, 3)
        assert torch.equal(ours.weight, conv.weight)
        assert torch.equal(ours.bias, conv.bias)
        assert DepthwiseConv2d(3, 3, bias=False).bias is None


class TestConvFFN:
    def test_by_hand(self):
        ffn = ConvFFN(2, hidden=6, out_dim=3).double()
        assert ffn.fc1.weight.shape == (6, 2, 1, 1)
        assert ffn.dwconv.weight.shape == (6, 1, 3, 3)
        x = torch.randn(2, 2, 4, 5, dtype=torch.float64)
        h = torch.einsum('oc,bchw->bohw', ffn.fc1.weight[:, :, 0, 0], x) + ffn.fc1.bias[:, None, None]
        padded = nn.functional.pad(h, (1, 1, 1, 1))
        conv = ffn.dwconv.bias[:, None, None] + sum(
            padded[:, :, i : i + 4, j : j + 5] * ffn.dwconv.weight[:, 0, i, j][:, None, None]
            for i in range(3)
            for j in range(3)
        )
        h = h + conv
        h = h / 2 * (1 + torch.erf(h / math.sqrt(2)))
        expected = torch.einsum('oc,bchw->bohw', ffn.fc2.weight[:, :, 0, 0], h) + ffn.fc2.bias[:, None, None]
        assert relative_error(ffn(x), expected) < 1e-12

    def test_defaults(self):
        ffn = ConvFFN(4)
        assert (ffn.fc1.out_channels, ffn.fc2.out_channels) == (16, 4)


class TestChannelScale:
    def test_starts_as_the_identity(self):
        scale, x = ChannelScale(4), torch.randn(2, 4, 3, 3)
        assert torch.equal(scale(x), x)
        assert scale.weight.shape == (4, 1, 1, 1)

    def test_weight_and_bias_per_channel(self):
        scale = ChannelScale(2)
        with torch.no_grad():
            scale.weight.copy_(torch.tensor([2.0, 3.0]).view(2, 1, 1, 1))
            scale.bias.copy_(torch.tensor([10.0, 20.0]))
        assert scale(torch.ones(1, 2, 1, 1)).flatten().tolist() == [12, 23]

    @pytest.mark.parametrize('shape', [(2, 3, 4, 5), (1, 3, 1, 1), (0, 3, 4, 5)])
    def test_is_the_depthwise_convolution(self, shape):
        scale, x = randomise(ChannelScale(3)).double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
        grad, leaves = torch.randn(shape, dtype=torch.float64), (x, *scale.parameters())
        outs = scale(x), F.conv2d(x, scale.weight, scale.bias, groups=3)
        results = ([out, *torch.autograd.grad(out, leaves, grad)] for out in outs)
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)

    def test_derivatives(self):
        scale = randomise(ChannelScale(2)).double()
        x = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
        inputs = (x, scale.weight, scale.bias)

        def run(x, weight, bias):
            return torch.func.functional_call(scale, {'weight': weight, 'bias': bias}, x)

        assert torch.autograd.gradcheck(run, inputs, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(run, inputs)

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize('parameters', ['float32', '16 bits'])
    def test_16_bits(self, dtype, parameters):
        """Float32 parameters are not converted, and their gradients are sums in float32."""
        scale, x = randomise(ChannelScale(4)), torch.randn(8, 4, 16, 16).to(dtype).requires_grad_()
        if parameters == '16 bits':
            scale = scale.to(dtype)
        leaves, grad = (x, *scale.parameters()), torch.randn(x.shape).to(dtype)
        found = traffic(lambda: scale(x).backward(grad))
        assert found.calls == {'aten.zeros_like': 1, 'aten.native_batch_norm': 1, 'aten.native_batch_norm_backward': 1}
        exact = copy.deepcopy(scale).double()
        wide = x.detach().double().requires_grad_()
        exact.zero_grad()
        exact(wide).backward(grad.double())
        limit = torch.finfo(dtype).eps
        for leaf, other in zip(leaves, (wide, *exact.parameters()), strict=True):
            assert leaf.grad.dtype == leaf.dtype
            assert relative_error(leaf.grad, other.grad) < (1e-6 if leaf.dtype == torch.float32 else limit)


class TestDropPath:
    def test_drops_samples_and_keeps_the_mean(self):
        drop, x = DropPath(0.25), torch.ones(20000, 2, 1, 2)
        out = drop(x)
        assert out.unique().tolist() == pytest.approx([0, 4 / 3])
        assert (out == out[:, :1, :1, :1]).all()  # a sample is dropped whole
        # This is the share of dropped samples, to five standard deviations.
        assert (out[:, 0, 0, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 20000) ** 0.5)

    @pytest.mark.parametrize(('rate', 'training'), [(0.5, True), (0.5, False), (0.0, True)])
    @pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
    def test_added_to_a_shortcut(self, rate, training, dtype):
        shortcut, branch = torch.randn(2, 16, 3, 2, 5).to(dtype).unbind(0)
        drop = DropPath(rate).train(training)
        torch.manual_seed(1)
        found = drop.add(shortcut, branch)
        torch.manual_seed(1)
        expected = shortcut + drop(branch)
        assert found.dtype == dtype
        assert relative_error(found, expected) < (1e-15 if dtype == torch.float64 else 4e-3)

    def test_keeps_neither_shortcut_nor_branch_for_the_backward(self):
        drop = DropPath(0.5)
        shortcut, branch = torch.randn(2, 4, 3, 2, 5).requires_grad_().unbind(0)
        kept = kept_bytes(lambda: drop.add(shortcut, branch), shortcut.device)
        assert kept == shortcut.nbytes + 4 * 4  # its output, and a factor for each sample

    @pytest.mark.parametrize(('rate', 'training'), [(0.5, False), (0.0, True)])
    def test_off(self, rate, training):
        x = torch.randn(4, 2, 1, 1)
        assert DropPath(rate).train(training)(x) is x

    @pytest.mark.parametrize('rate', [-0.1, 1.0, 2, math.nan])
    def test_bad_rates(self, rate):
        with pytest.raises(ValueError, match=f'expected 0 <= rate < 1, got {rate}'):
            DropPath(rate)

    def test_keeps_the_type_and_prints_the_rate(self):
        assert DropPath(0.5)(torch.ones(2, 1, 1, 1, dtype=torch.bfloat16)).dtype == torch.bfloat16
        assert repr(DropPath(0.125)) == 'DropPath(rate=0.125)'


class TestInitialValues:
    @pytest.mark.parametrize('module', [nn.Conv2d(64, 64, 3), nn.Linear(256, 128)], ids=['conv', 'linear'])
    def test_truncated_normal(self, module):
        init_weights(module)
        weight = module.weight.detach()
        assert module.bias.eq(0).all()
        count = weight.numel()
        assert weight.std().item() == pytest.approx(0.02, rel=5 / (2 * count) ** 0.5)
        assert abs(weight.mean().item()) < 5 * 0.02 / count**0.5
        # The cut at +-2 is a hundred standard deviations away: this is as good as a normal distribution.
        assert weight.abs().max() > 3.5 * 0.02

    def test_leaves_scales_and_norms_alone(self):
        assert not isinstance(ChannelScale(4), nn.Conv2d)
        for module in (ChannelScale(4), map_norm(4), nn.BatchNorm2d(4), ChannelLayerNorm(4)):
            init_weights(module)
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()

    def test_convolution_without_bias(self):
        init_weights(nn.Conv2d(2, 2, 1, bias=False))


class TestNorms:
    def test_channel_layer_norm_is_layer_norm(self):
        ours, theirs = ChannelLayerNorm(6, eps=1e-6).double(), nn.LayerNorm(6, eps=1e-6).double()
        with torch.no_grad():
            ours.weight.normal_()
            ours.bias.normal_()
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
        out = ours(x)
        assert relative_error(out, theirs(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)) < 1e-14
        assert out.is_contiguous()

    def test_map_norm_takes_channels_and_positions_together(self):
        norm, x = map_norm(4).double(), 5 + 3 * torch.randn(2, 4, 3, 5, dtype=torch.float64)
        assert norm.eps == 1e-5
        expected = (x - x.mean((1, 2, 3), keepdim=True)) / (x.var((1, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
        assert relative_error(norm(x), expected) < 1e-14

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
    def test_map_norm_in_16_bits_takes_a_float32_map(self, dtype):
        norm, x = map_norm(4).to(dtype), 1e6 * torch.randn(2, 4, 3, 5)
        with torch.no_grad():
            norm.weight.normal_()
            norm.bias.normal_()
        out = norm(x)
        assert out.dtype == torch.float32
        assert relative_error(out, norm.float()(x)) < 1e-7
        assert norm.to(dtype)(torch.ones(1, 4, 1, 1, dtype=dtype)).dtype == dtype

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
    def test_channel_layer_norm_in_16_bits_takes_a_float32_map(self, dtype):
        norm, x = ChannelLayerNorm(4).to(dtype), 1e6 * torch.randn(2, 4, 3, 5)
        with torch.no_grad():
            norm.weight.normal_()
            norm.bias.normal_()
        out = norm(x)
        assert out.dtype == torch.float32
        assert relative_error(out, norm.float()(x)) < 1e-7
        assert norm.to(dtype)(torch.ones(1, 4, 1, 1, dtype=dtype)).dtype == dtype

    def test_by_name(self):
        kinds = {'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm, 'GN': MapNorm, 'LN2d': ChannelLayerNorm}
        assert set(NORMS) == set(kinds)
        for name, kind in kinds.items():
            for cfg in (name, {'type': name}):
                norm = build_norm(4, cfg)
                assert type(norm) is kind
                assert norm.eps == 1e-5
                assert norm.weight.shape == (4,)
                assert norm.weight.requires_grad
        assert build_norm(4, 'GN').num_groups == 1
        assert build_norm(4, {'type': 'GN', 'num_groups': 2}).num_groups == 2

    @pytest.mark.parametrize('name', NORMS)
    def test_options(self, name):
        cfg = {'type': name, 'requires_grad': False, 'eps': 1e-3}
        norm = build_norm(4, cfg)
        assert norm.eps == 1e-3
        assert not any(p.requires_grad for p in norm.parameters())
        assert cfg == {'type': name, 'requires_grad': False, 'eps': 1e-3}  # the argument is unchanged
        with pytest.raises(TypeError, match='epz'):
            build_norm(4, {'type': name, 'epz': 1})

    def test_momentum(self):
        assert build_norm(4, {'type': 'BN', 'momentum': 0.01}).momentum == 0.01

    @pytest.mark.parametrize('cfg', ['LN', {'type': 'LN'}, {'type': None}, {}, {'requires_grad': True}], ids=str)
    def test_unknown(self, cfg):
        kind = cfg if isinstance(cfg, str) else cfg.get('type')
        with pytest.raises(ValueError, match=f'norm: unknown type {kind!r}; known ones: BN, SyncBN, GN, LN2d'):
            build_norm(4, cfg)
