"""Effective receptive fields: how strongly each pixel acts on the unit at the centre of a map.

Source: Luo et al. (2016). What is measured, how it is shown and the table of squares are those of RepLKNet's and
VMamba's scripts, as in the paper (SparX, Fig. 4 and Sec. A.6).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Scales that `scaled` knows.
SCALES = ('root', 'log')
# Shares of a map's sum, in the table.
SHARES = (0.2, 0.3, 0.5, 0.99)


@dataclass
class ReceptiveField:
    """The effect of each pixel on the unit at the centre of a map, as a mean over images.

    Attributes:
        map: Mean of relu(d score / d pixel), summed over channels, (H, W), float64; zeros where there is no image.
        grid: Height and width of the map that the unit is of.
        images: Number of images in the mean.
        not_finite: Number of images that were left out, as their score or gradient is not finite.
        dead: Number of images in the mean whose score is 0, so that nothing acts on it.
    """

    map: np.ndarray
    grid: tuple[int, int]
    images: int = 0
    not_finite: int = 0
    dead: int = 0

    @property
    def unit(self) -> tuple[int, int]:
        """Row and column of the unit: h // 2 and w // 2, half a cell behind the centre of a map of even sides."""
        return self.grid[0] // 2, self.grid[1] // 2


def receptive_fields(
    maps: Callable[[Tensor], Sequence[Tensor]], batches: Iterable[Tensor], stages: Sequence[int] | None = None
) -> list[ReceptiveField]:
    """Measure the effective receptive fields of the units at the centres of a network's maps.

    The score of an image is the sum over channels of relu(y[:, h // 2, w // 2]) of a map y. One forward pass of a batch
    serves all its maps. In evaluation mode an image's gradient is its own, so the size of batches makes no difference.

    Args:
        maps: Function of images, which gives the maps (B, C, h, w) of a network in evaluation mode.
        batches: Batches of images, (B, C, H, W), all of one size.
        stages: Positions of the maps to look at; all by default.

    Returns:
        For each map the field; an image that is not finite in one of them is left out of that one alone.

    Raises:
        ValueError: There is no image, a map has other than four axes, or images differ in size.
    """
    fields: list[ReceptiveField] = []
    for batch in batches:
        x = batch.detach().requires_grad_()
        with torch.enable_grad():
            outputs = list(maps(x))
            outputs = outputs if stages is None else [outputs[i] for i in stages]
            scores = [_scores(y) for y in outputs]
        if not fields:
            fields = [ReceptiveField(np.zeros(x.shape[2:]), tuple(y.shape[2:])) for y in outputs]
        for i, (field, score) in enumerate(zip(fields, scores, strict=True)):
            if field.map.shape != x.shape[2:]:
                raise ValueError(f'expected images of one size, got {tuple(x.shape[2:])} after {field.map.shape}')
            (gradient,) = torch.autograd.grad(score.sum(), x, retain_graph=i + 1 < len(scores))
            _add(field, score.detach(), gradient)
    if not fields:
        raise ValueError('expected at least one batch of images, got none')
    for field in fields:
        field.map /= max(field.images, 1)
    return fields


def _scores(y: Tensor) -> Tensor:
    """(B, C, h, w) -> (B,): the scores of the unit at the centre."""
    if y.dim() != 4:
        raise ValueError(f'expected maps (B, C, h, w), got one of shape {tuple(y.shape)}')
    return y[:, :, y.shape[2] // 2, y.shape[3] // 2].relu().sum(1)


def _add(field: ReceptiveField, scores: Tensor, gradient: Tensor) -> None:
    """Add the images of a batch, (B,) and (B, C, H, W), to the sum in a field."""
    finite = scores.isfinite() & gradient.isfinite().flatten(1).all(1)
    kept = gradient[finite].relu().cpu().double()  # on the CPU, as MPS has no float64
    field.map += kept.sum((0, 1)).numpy()
    field.images += len(kept)
    field.not_finite += len(scores) - len(kept)
    field.dead += int((scores[finite] == 0).sum())


def centred_square(values: np.ndarray, share: float) -> tuple[int, float] | None:
    """The smallest centred square of odd side whose share of a map's sum exceeds a threshold.

    The square is centred on the pixel (H // 2, W // 2), and is cut off where it passes the border.

    Args:
        values: Map without negative values, (H, W).
        share: Threshold, from 0 to below 1.

    Returns:
        Side of the square in pixels, at most that of the map, and its area over that of the map; None for an empty map.

    Raises:
        ValueError: `share` is not from 0 to below 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f'share: expected a number from 0 to below 1, got {share}')
    total = values.sum()
    if not total > 0:
        return None
    height, width = values.shape
    row, column = height // 2, width // 2
    longest = max(height, width)
    for reach in range(longest):
        inside = values[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
        if inside.sum() > share * total or inside.size == values.size:
            return min(2 * reach + 1, longest), inside.size / values.size
    raise AssertionError('a square of twice the longest side holds the whole map')


def scaled(values: np.ndarray, scale: str = 'root') -> np.ndarray:
    """A map from 0 to 1, as it is shown.

    Args:
        values: Map without negative values, (H, W).
        scale: 'root' for map^0.2 / max, as VMamba has it, or 'log' for log10(1 + map) / max, as RepLKNet does.

    Raises:
        ValueError: Another scale.
    """
    if scale not in SCALES:
        raise ValueError(f'scale: expected one of {", ".join(SCALES)}, got {scale!r}')
    shown = values**0.2 if scale == 'root' else np.log10(1 + values)
    return shown / shown.max() if shown.max() > 0 else shown
