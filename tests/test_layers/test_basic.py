"""The small parts and the norms."""

import math

import pytest
import torch
from helpers import relative_error
from torch import nn

from mmsparx.layers.basic import ChannelScale, ConvFFN, DropPath, downsample, init_weights, stem
from mmsparx.layers.norm import ChannelLayerNorm, batch_norm, map_norm

BN = {'type': 'BN'}


class TestStem:
    @pytest.mark.parametrize('depth', [2, 3])
    def test_structure(self, depth):
        layers = list(stem(3, 12, depth, BN))
        convolutions = [m for m in layers if isinstance(m, nn.Conv2d)]
        widths = [(3, 6), (6, 6), (6, 12)] if depth == 3 else [(3, 6), (6, 12)]
        strides = [2, 1, 2] if depth == 3 else [2, 2]
        assert [(m.in_channels, m.out_channels) for m in convolutions] == widths
        assert [m.stride[0] for m in convolutions] == strides
        assert all(m.kernel_size == (3, 3) and m.padding == (1, 1) and m.bias is None for m in convolutions)
        kinds = [nn.Conv2d, nn.BatchNorm2d, nn.GELU] * depth
        assert [type(m) for m in layers] == kinds[:-1]
        assert all(m.approximate == 'none' for m in layers if isinstance(m, nn.GELU))

    @pytest.mark.parametrize(('side', 'out'), [(1, 1), (4, 1), (5, 2), (32, 8), (33, 9)])
    def test_an_odd_side_rounds_up(self, side, out):
        assert stem(3, 8, 2, BN).eval()(torch.randn(1, 3, side, 8)).shape == (1, 8, out, 2)

    @pytest.mark.parametrize(('side', 'out'), [(1, 1), (2, 1), (7, 4), (8, 4)])
    def test_downsample(self, side, out):
        module = downsample(4, 6, BN).eval()
        assert module(torch.randn(1, 4, side, 2)).shape == (1, 6, out, 1)
        assert [type(m) for m in module] == [nn.Conv2d, nn.BatchNorm2d]
        assert module[0].bias is None


class TestConvFFN:
    def test_by_hand(self):
        ffn = ConvFFN(2, ratio=3).double()
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

    def test_default_ratio(self):
        assert ConvFFN(4).fc1.out_channels == 16


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


class TestDropPath:
    def test_drops_samples_and_keeps_the_mean(self):
        drop, x = DropPath(0.25), torch.ones(20000, 2, 1, 2)
        out = drop(x)
        assert out.unique().tolist() == pytest.approx([0, 4 / 3])
        assert (out == out[:, :1, :1, :1]).all()  # a sample is dropped whole
        # The share of dropped samples, to five standard deviations.
        assert (out[:, 0, 0, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 20000) ** 0.5)

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
        # Cut at +-2, a hundred standard deviations: as good as a normal distribution.
        assert weight.abs().max() > 3.5 * 0.02

    def test_leaves_scales_and_norms_alone(self):
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

    def test_batch_norm_options(self):
        norm = batch_norm(4, {'type': 'BN', 'requires_grad': False, 'eps': 1e-3, 'momentum': 0.01})
        assert (type(norm), norm.eps, norm.momentum) == (nn.BatchNorm2d, 1e-3, 0.01)
        assert not any(p.requires_grad for p in norm.parameters())
        assert batch_norm(4, BN).eps == 1e-5
        assert batch_norm(4, BN).weight.requires_grad
        assert type(batch_norm(4, {'type': 'SyncBN'})) is nn.SyncBatchNorm

    def test_the_config_is_left_alone(self):
        cfg = {'type': 'BN', 'requires_grad': True}
        batch_norm(4, cfg)
        assert cfg == {'type': 'BN', 'requires_grad': True}

    @pytest.mark.parametrize('cfg', [{'type': 'LN'}, {'type': None}, {}, {'requires_grad': True}], ids=str)
    def test_unknown_batch_norm(self, cfg):
        with pytest.raises(ValueError, match=f'unknown type {cfg.get("type")!r}; known ones: BN, SyncBN'):
            batch_norm(4, cfg)
