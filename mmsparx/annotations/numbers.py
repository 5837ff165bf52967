"""Checks of the numbers of annotations."""

from collections.abc import Sequence

import numpy as np

Size = tuple[int, int]  # width and height
Extent = tuple[float, float, float, float]  # left, top, right, bottom

# The unit is a side of the image: boxes and polygons of objects at its border reach a little beyond it, one of another
# image or in other units much farther.
_FAR = 10

# IoU of the box of an object and that of its mask.
LEAST_AGREEMENT = 0.5

_NUMBERS = {int, float}


def is_whole(x: object) -> bool:
    """Whether it is an integer, and not a truth value."""
    return type(x) is int


def are_numbers(values: Sequence) -> bool:
    """Whether all are finite numbers, by built-in functions alone: there are millions."""
    if not _NUMBERS.issuperset(map(type, values)):
        return False
    try:
        return abs(sum(values)) < float('inf')  # NaN and infinities stay in the sum
    except OverflowError:  # an integer beyond all floats
        return False


def as_numbers(values: Sequence) -> np.ndarray | None:
    """An array of numbers, which may be NaN; None where some are none, or lists are of several lengths."""
    try:
        array = np.array(values)
    except ValueError:
        return None
    return array.astype(float) if array.dtype.kind in 'if' else None


def is_far_outside(extent: Extent, size: Size) -> bool:
    """Whether it reaches beyond the image by many times the image's longer side."""
    beyond = _FAR * max(size)
    left, top, right, bottom = extent
    return left < -beyond or top < -beyond or right > size[0] + beyond or bottom > size[1] + beyond


def is_inside(extents: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """A mask (N,) of the extents (N, 4) within their images of sizes (N, 2), up to a pixel. NaN is outside."""
    return (extents[:, :2] >= -1).all(1) & (extents[:, 2:] <= sizes + 1).all(1)


def agree(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A mask (N,) of the extents (N, 4) that agree with the others."""
    overlap = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0).prod(1)
    union = sum((each[:, 2:] - each[:, :2]).prod(1) for each in (a, b)) - overlap
    return overlap >= LEAST_AGREEMENT * union
