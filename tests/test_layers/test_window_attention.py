"""Shifted-window attention against timm's, mmdetection's, and a computation position by position."""

import math

import pytest
import torch
from helpers import Watch, randomise, relative_error
from helpers.naive_layers import check_against
from torch import Tensor, nn

from mmsparx.layers.attention import attend
from mmsparx.layers.mixers import WindowAttention


class Triple(nn.Module):
    """An aggregator C -> 3C."""

    def __init__(self, dim, out_dim):
        super().__init__()
        self.conv = nn.Conv2d(2 * dim, out_dim, 1)
        self.shape = dim, out_dim

    def forward(self, x, *sources):
        return self.conv(torch.cat((x, sum(sources)), 1))


def naive_windows(weights, x, *sources, window, heads, shifted):
    """The attention of every position of the padded map to the positions of its window and its part of the map."""

    def pointwise(name, x):
        kernel, bias = weights[f'{name}.weight'][:, :, 0, 0], weights[f'{name}.bias']
        return torch.einsum('oc,bchw->bohw', kernel, x) + bias[:, None, None]

    def pad(x):
        padded = x.new_zeros(*x.shape[:2], *(math.ceil(side / window) * window for side in x.shape[2:]))
        padded[:, :, : x.shape[2], : x.shape[3]] = x
        return padded

    _, channels, height, width = x.shape
    qkv = pad(pointwise('qkv.conv', torch.cat((x, sum(sources)), 1))) if sources else pointwise('qkv', pad(x))
    rows, columns = qkv.shape[2:]
    shifts = [window // 2 if shifted and side > window else 0 for side in (height, width)]

    def place(position, shift, size):
        """The window of a position along an axis, and whether the shift has wrapped it around the map's end."""
        return ((position - shift) % size) // window, position < shift

    places = {}
    for i in range(rows):
        for j in range(columns):
            places.setdefault((place(i, shifts[0], rows), place(j, shifts[1], columns)), []).append((i, j))
    # q, k and v follow each other, and so do the heads within each.
    size = channels // heads
    table = weights['relative_position_bias_table']
    out = [[[None] * columns for _ in range(rows)] for _ in range(heads)]
    for together in places.values():
        at = tuple(torch.tensor(together).t())
        for head in range(heads):
            q, k, v = (qkv[:, n * channels + head * size :][:, :size][:, :, at[0], at[1]] for n in range(3))
            for n, (i, j) in enumerate(together):
                scores = (q[:, :, n, None] * k).sum(1) / math.sqrt(size)  # (B, positions)
                distances = [(i - k + window - 1) * (2 * window - 1) + j - m + window - 1 for k, m in together]
                scores = torch.exp(scores + table[distances, head])
                out[head][i][j] = ((scores / scores.sum(1, keepdim=True))[:, None] * v).sum(2)
    out = torch.stack([torch.stack([torch.stack(row, -1) for row in head], -2) for head in out], 1)
    return pointwise('proj', out.flatten(1, 2))[:, :, :height, :width]


def build(dim=8, aggregator=None, **options):
    mixer = randomise(WindowAttention(dim, aggregator, **options).double())
    with torch.no_grad():  # as large as the scores
        mixer.relative_position_bias_table.normal_()
    return mixer


class TestTruth:
    @pytest.mark.parametrize('index', [0, 1, 2])
    @pytest.mark.parametrize(
        'size',
        [(1, 1), (3, 3), (6, 6), (5, 7), (2, 8), (7, 3), (4, 4), (9, 4)],
        ids=lambda size: f'{size[0]}x{size[1]}',
    )
    @pytest.mark.parametrize('window', [3, 4])
    def test_values_and_gradients(self, window, size, index):
        check_against(
            build(window_size=window, index=index, num_heads=2),
            lambda *args: naive_windows(*args, window=window, heads=2, shifted=index == 1),
            [torch.randn(2, 8, *size, dtype=torch.float64)],
        )

    @pytest.mark.parametrize('size', [(9, 11), (7, 8), (5, 15)], ids=str)
    def test_windows_of_7(self, size):
        # The map is shifted and padded, but not shifted along a side of 7 or less, which neither library does.
        check_against(
            build(index=1, num_heads=1, dim=4),
            lambda *args: naive_windows(*args, window=7, heads=1, shifted=True),
            [torch.randn(1, 4, *size, dtype=torch.float64)],
        )

    @pytest.mark.parametrize('index', [0, 1])
    @pytest.mark.parametrize('size', [(1, 2), (5, 7), (6, 3)], ids=str)
    def test_an_aggregator_takes_the_place_of_qkv(self, size, index):
        mixer = build(aggregator=Triple, window_size=3, index=index, num_heads=2)
        assert mixer.qkv.shape == (8, 24)
        # The aggregator takes the map before the padding: unlike qkv's, its bias is not in the padding.
        check_against(
            mixer,
            lambda *args: naive_windows(*args, window=3, heads=2, shifted=index == 1),
            list(torch.randn(3, 2, 8, *size, dtype=torch.float64)),
        )

    @pytest.mark.parametrize(
        ('size', 'shift'), [((14, 14), 0), ((14, 14), 3), ((7, 7), 0), ((9, 11), 0), ((21, 14), 3)], ids=str
    )
    def test_timm(self, size, shift):
        swin = pytest.importorskip('timm.models.swin_transformer', reason='it has the same attention')
        block = swin.SwinTransformerBlock(24, size, num_heads=3, window_size=7, shift_size=shift)
        compare_with(randomise(block.double()), block.attn, lambda x: block._attn(x), size, shift)

    @pytest.mark.parametrize(
        ('size', 'shift'),
        [((14, 14), 0), ((9, 11), 0), ((5, 7), 0), ((14, 14), 3), ((9, 11), 3), ((21, 10), 3)],
        ids=str,
    )
    def test_mmdetection(self, size, shift):
        swin = pytest.importorskip('mmdet.models.backbones.swin', reason='it has the same attention')
        theirs = swin.ShiftWindowMSA(24, num_heads=3, window_size=7, shift_size=shift)
        compare_with(
            randomise(theirs.double()),
            theirs.w_msa,
            lambda x: theirs(x.flatten(1, 2), size).unflatten(1, size),
            size,
            shift,
        )


def compare_with(theirs: nn.Module, attention: nn.Module, forward, size: tuple[int, int], shift: int) -> None:
    """Values and gradients of another library's module with its own weights; `forward` takes and gives (B, H, W, C)."""
    with torch.no_grad():
        attention.relative_position_bias_table.normal_()
    ours = WindowAttention(24, index=1 if shift else 0, num_heads=3).double()
    weights = {name: p.detach() for name, p in attention.named_parameters()}
    ours.load_state_dict(
        {name: p[:, :, None, None] if name in ('qkv.weight', 'proj.weight') else p for name, p in weights.items()}
    )
    x = torch.randn(2, 24, *size, dtype=torch.float64, requires_grad=True)
    factor = torch.randn_like(x)
    expected, out = forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), ours(x)
    assert relative_error(out, expected) < 1e-12
    truth = torch.autograd.grad((expected * factor).sum(), (x, *attention.parameters()))
    gradients = torch.autograd.grad((out * factor).sum(), (x, *(dict(ours.named_parameters())[n] for n in weights)))
    for name, gradient, wanted in zip(('x', *weights), gradients, truth, strict=True):
        assert relative_error(gradient.view_as(wanted), wanted) < 1e-12, name


class TestPrecision:
    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
    @pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'whole'])
    def test_16_bits(self, autocast, dtype):
        mixer, x = build(window_size=4, index=1), torch.randn(2, 8, 9, 8, dtype=torch.float64)
        expected = mixer(x)
        mixer = mixer.float() if autocast else mixer.to(dtype)
        x = x.float() if autocast else x.to(dtype)
        with Watch() as watch, torch.autocast('cpu', dtype, enabled=autocast):
            out = mixer(x)
        assert out.dtype == dtype
        assert set(watch.types['aten.bmm.default']) == {dtype}
        assert set(watch.types['aten._softmax.default']) == {torch.float32}
        # There are some five roundings of 2^-9 or 2^-12 on the way.
        assert relative_error(out, expected) < (2e-2 if dtype == torch.bfloat16 else 3e-3)
        out.float().square().sum().backward()
        assert all(p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in mixer.parameters())

    @pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'whole'])
    def test_scores_beyond_float16(self, autocast):
        mixer, x = build(window_size=4, index=1), 500 * torch.randn(2, 8, 9, 8)
        mixer = mixer.float() if autocast else mixer.half()
        with torch.autocast('cpu', torch.float16, enabled=autocast):
            out = mixer(x if autocast else x.half())
        assert out.isfinite().all()
        out.float().mean().backward()
        assert all(p.grad.isfinite().all() for p in mixer.parameters())

    def test_float64_stays_float64(self):
        mixer, x = build(window_size=4, index=1), torch.randn(1, 8, 9, 4, dtype=torch.float64, requires_grad=True)
        with Watch() as watch:
            mixer(x).sum().backward()
        assert watch.floating == {torch.float64}

    def test_compiles_for_any_size(self):
        torch._dynamo.reset()
        mixer = build(window_size=4, index=1)
        compiled = torch.compile(mixer, fullgraph=True, backend='eager', dynamic=True)
        for size in ((9, 6), (13, 8), (5, 11)):
            x = torch.randn(1, 8, *size, dtype=torch.float64)
            assert relative_error(compiled(x), mixer(x)) < 1e-14

    def test_compiles_in_one_graph(self):
        mixer, x = build(window_size=4, index=1), torch.randn(1, 8, 9, 4, dtype=torch.float64)
        assert relative_error(torch.compile(mixer, fullgraph=True, backend='eager')(x), mixer(x)) < 1e-14


class TestAttend:
    def test_infinite_scores_of_float16(self):
        # Two scores of 90000 share the value, and one of -90000 gets none of it.
        query = torch.full((1, 1, 4), 300.0).half()
        key = torch.tensor([1.0, 1, -1])[None, :, None].half() * 150 * torch.ones(4).half()
        value = torch.tensor([1.0, 3, 100])[None, :, None].half()
        assert attend(query, key, value).item() == 2
        assert attend(query, key, value, bias=torch.tensor([0.0, -1e4, 0]).half()).item() == 1

    def test_bias_in_another_type(self):
        query, key, value = torch.randn(3, 1, 5, 4).bfloat16()
        assert attend(query, key, value, bias=torch.zeros(5, 5)).dtype == torch.bfloat16


class TestOptions:
    @pytest.mark.parametrize(
        ('dim', 'heads'),
        [(96, 3), (192, 6), (320, 10), (576, 18), (120, 4), (240, 8), (396, 12), (616, 22), (8, 1), (37, 1)],
    )
    def test_default_heads(self, dim, heads):
        assert WindowAttention(dim).num_heads == heads
        with torch.device('meta'):
            count = sum(p.numel() for p in WindowAttention(dim).parameters())
        assert count == 4 * dim * (dim + 1) + 169 * heads

    def test_the_smaller_of_two_head_sizes(self):
        assert WindowAttention(24 * 40, head_dim=34).num_heads == 30  # 32, not 40
        assert WindowAttention(30, head_dim=4).num_heads == 10  # 3, not 5

    @pytest.mark.parametrize(('num_heads', 'dim'), [(3, 8), (0, 8), (-2, 8), (16, 8), (2.0, 8), ('2', 8), (True, 8)])
    def test_heads_that_do_not_divide(self, num_heads, dim):
        message = f'WindowAttention: expected num_heads that divide the {dim} channels, got num_heads={num_heads!r}'
        with pytest.raises(ValueError, match=message):
            WindowAttention(dim, num_heads=num_heads)

    @pytest.mark.parametrize('option', ['window_size', 'head_dim'])
    @pytest.mark.parametrize('value', [0, -7, 3.5, True])
    def test_bad_sizes(self, option, value):
        with pytest.raises(ValueError, match=f'expected {option} to be an integer of at least 1, got {value}'):
            WindowAttention(8, **{option: value})

    def test_a_window_of_one_position(self):
        # The position attends to itself only, so the output is the values, projected.
        mixer, x = build(window_size=1, index=1), torch.randn(2, 8, 3, 4, dtype=torch.float64)
        expected = mixer.proj(mixer.qkv(x)[:, 16:])
        assert relative_error(mixer(x), expected) < 1e-14

    def test_a_misspelt_option_is_refused(self):
        with pytest.raises(TypeError, match='windowsize'):
            WindowAttention(8, windowsize=7)

    def test_the_table_starts_small(self):
        table: Tensor = WindowAttention(96).relative_position_bias_table
        assert table.shape == (169, 3)
        assert table.std().item() == pytest.approx(0.02, rel=5 / (2 * table.numel()) ** 0.5)

    def test_nothing_but_parameters_is_kept(self):
        """A buffer that is not saved would hold whatever is in memory after `to_empty`."""
        assert not list(WindowAttention(8).buffers())
        assert set(WindowAttention(8).state_dict()) == {
            'qkv.weight',
            'qkv.bias',
            'relative_position_bias_table',
            'proj.weight',
            'proj.bias',
        }
