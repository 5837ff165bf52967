"""Attention in shifted windows, the token mixer of Swin."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmsparx.layers.attention import attend
from mmsparx.layers.basic import pad_to_multiple
from mmsparx.layers.checks import check_heads, check_sizes
from mmsparx.layers.pointwise import pointwise_conv
from mmsparx.registry import TOKEN_MIXERS

# Added to the scores of positions that a shift has brought into one window from different parts of the map, as in Swin.
_APART = -100.0


@TOKEN_MIXERS.register_module()
class WindowAttention(nn.Module):
    """Attention within windows, which odd layers shift by half a window (Swin, Sec. 3.2; SparX, Table 8).

    The map is padded with zeros at the right and the bottom to multiples of the window, then shifted, as in
    mmdetection (timm shifts first); the padding takes part as keys. Along a side of no more than a window there is
    no shift (mmdetection shifts there, too).

    In a ganglion layer the aggregator takes the place of the projection to queries, keys and values, on the map before
    the padding, and its output is padded. Determined by the paper: the attention. Fitted to the paper's figures: the
    aggregator's place, and the numbers of heads.

    Args:
        dim: Number of channels of the map, C.
        aggregator: Maker of the aggregator (C -> 3C) of a ganglion layer, see `mmsparx.layers.mixers`.
        index: Index of the layer in its stage; odd ones shift their windows.
        num_heads: Number of heads; by default, heads have the size that divides C and is nearest to `head_dim`.
        window_size: Side of the windows, in positions.
        head_dim: Number of channels of a head, where `num_heads` is None.

    Raises:
        ValueError: `num_heads` does not divide `dim`, or a size is below 1.
    """

    def __init__(
        self,
        dim: int,
        aggregator: Callable[[int, int], nn.Module] | None = None,
        *,
        index: int = 0,
        num_heads: int | None = None,
        window_size: int = 7,
        head_dim: int = 32,
    ):
        super().__init__()
        check_sizes('WindowAttention', window_size=window_size, head_dim=head_dim)
        if num_heads is None:
            num_heads = dim // nearest_divisor(dim, head_dim)
        check_heads('WindowAttention', dim, num_heads, 'num_heads')
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift = window_size // 2 if index % 2 else 0
        self.aggregated = aggregator is not None
        self.qkv = pointwise_conv(dim, 3 * dim) if aggregator is None else aggregator(dim, 3 * dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        self.proj = pointwise_conv(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02, a=-2.0, b=2.0)

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        """(B, C, H, W), and a ganglion layer's sources of the same shape -> (B, C, H, W)."""
        height, width = x.shape[2:]
        if self.aggregated:
            qkv = pad_to_multiple(self.qkv(x, *sources), self.window_size)
        else:
            qkv = self.qkv(pad_to_multiple(x, self.window_size))
        shifts = [self.shift if side > self.window_size else 0 for side in (height, width)]
        bias = self._position_bias()  # (heads, w^2, w^2)
        if any(shifts):
            qkv = qkv.roll([-shift for shift in shifts], (2, 3))
            bias = bias + self._apart(*qkv.shape[2:], *shifts, like=bias)  # (windows, heads, w^2, w^2)
        query, key, value = self._windows(qkv).unbind(2)  # (B, windows, heads, w^2, C / heads) each
        out = self._map(attend(query, key, value, bias), *qkv.shape[2:])
        if any(shifts):
            out = out.roll(shifts, (2, 3))
        return self.proj(out)[:, :, :height, :width].contiguous()

    def _position_bias(self) -> Tensor:
        """(heads, w^2, w^2): of query i and key j, the table's row for the distance i - j.

        By windows over the table instead of an index, which would be a buffer for `to_empty` to forget.
        """
        w = self.window_size
        table = self.relative_position_bias_table.unflatten(0, (2 * w - 1, 2 * w - 1))
        windows = table.unfold(0, w, 1).unfold(1, w, 1)  # (w, w, heads, w, w), of i and w - 1 - j
        return windows.flip(3, 4).permute(2, 0, 1, 3, 4).flatten(3, 4).flatten(1, 2)

    def _apart(self, height: int, width: int, shift_down: int, shift_right: int, like: Tensor) -> Tensor:
        """(windows, 1, w^2, w^2): what is added to scores between parts of a shifted map that are no neighbours."""
        rows = self._parts(height, shift_down, like.device)
        columns = self._parts(width, shift_right, like.device)
        # (1, 1, height, width), a number for each part
        return self._between_parts((3 * rows[:, None] + columns)[None, None], like)

    def _between_parts(self, parts: Tensor, like: Tensor) -> Tensor:
        """(windows, 1, w^2, w^2), in like's type, of the numbers (1, 1, height, width) of positions' parts."""
        parts = self._windows(parts, 1, 1).flatten(0, 3).squeeze(-1)  # (windows, w^2)
        apart = parts[:, :, None] != parts[:, None, :]
        return torch.zeros_like(apart, dtype=like.dtype).masked_fill(apart, _APART).unsqueeze(1)

    def _parts(self, size: int, shift: int, device: torch.device) -> Tensor:
        """(size,): the part of a shifted axis that a position belongs to, of three; the last two share a window."""
        position = torch.arange(size, device=device)
        if not shift:
            return torch.zeros_like(position)
        return (position >= size - self.window_size).long() + (position >= size - shift)

    def _windows(self, x: Tensor, kinds: int = 3, heads: int | None = None) -> Tensor:
        """(B, kinds * C, H, W) -> (B, windows, kinds, heads, w^2, C / heads)."""
        w = self.window_size
        x = x.unflatten(3, (-1, w)).unflatten(2, (-1, w)).unflatten(1, (kinds, heads or self.num_heads, -1))
        # (B, kinds, heads, d, rows, w, columns, w) -> (B, rows, columns, kinds, heads, w, w, d)
        return x.permute(0, 4, 6, 1, 2, 5, 7, 3).flatten(5, 6).flatten(1, 2)

    def _map(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, windows, heads, w^2, C / heads) -> (B, C, height, width)."""
        w = self.window_size
        x = x.unflatten(3, (w, w)).unflatten(1, (height // w, width // w))
        # (B, rows, columns, heads, w, w, d) -> (B, heads, d, rows, w, columns, w)
        return x.permute(0, 3, 6, 1, 4, 2, 5).flatten(5, 6).flatten(3, 4).flatten(1, 2)


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of `number` that is nearest to `wanted`; the smaller of two."""
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - wanted))
