"""The four scan directions of SS2D and their transpose."""

import torch
from torch import Tensor

__all__ = ['cross_merge', 'cross_scan']


def cross_scan(x: Tensor) -> Tensor:
    """Lay a feature map out along the four directions of SS2D (VMamba, Sec. 4.2).

    Direction 0 reads row by row, 1 column by column, 2 and 3 the same two in reverse.

    Args:
        x: (B, C, H, W), read along every direction, or (B, 4, C, H, W), where direction k reads
            its own map x[:, k].

    Returns:
        (B, 4, C, L), L = H * W.

    Raises:
        ValueError: x has another shape.
    """
    if x.dim() == 4:
        x = x.unsqueeze(1).expand(-1, 4, -1, -1, -1)
    elif x.dim() != 5 or x.shape[1] != 4:
        raise ValueError(f'cross_scan: expected x of shape (B, C, H, W) or (B, 4, C, H, W), got {tuple(x.shape)}')
    ahead, back = x.chunk(2, 1)
    rows, columns = ahead.unbind(1)
    # With both sides of a map reversed, the sequences of its rows and of its columns are reversed.
    rows_back, columns_back = back.flip(-2, -1).unbind(1)
    maps = (rows, columns.transpose(-1, -2), rows_back, columns_back.transpose(-1, -2))
    # The four maps of a square map have one shape, so that one copy is enough. Graphs are for any shape.
    if not torch.compiler.is_compiling() and not torch.jit.is_tracing() and x.shape[-2] == x.shape[-1]:
        return torch.stack(maps, 1).flatten(-2)
    return torch.stack([m.flatten(-2) for m in maps], 1)


def cross_merge(y: Tensor, height: int, width: int) -> Tensor:
    """Put the four directions back into image order and sum them; the transpose of `cross_scan`.

    Args:
        y: (B, 4, C, L).
        height: H of the map, in positions.
        width: W of the map, in positions; L = H * W.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: y does not have four directions of height * width positions.
    """
    if y.dim() != 4 or y.shape[1] != 4 or y.shape[3] != height * width:
        raise ValueError(
            f'cross_merge: expected y of shape (B, 4, C, {height * width}) for a {height}x{width} map, '
            f'got {tuple(y.shape)}'
        )
    rows, columns = (y[:, :2] + y[:, 2:].flip(-1)).unbind(1)
    return rows.unflatten(-1, (height, width)) + columns.unflatten(-1, (width, height)).transpose(-1, -2)
