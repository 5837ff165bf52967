"""Masks in COCO's format, checked without drawing them: polygons and run-length encodings."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from mmsparx.annotations.findings import Kind, shortened
from mmsparx.annotations.numbers import (
    Extent,
    Size,
    agree,
    are_numbers,
    as_numbers,
    is_far_outside,
    is_inside,
    is_whole,
)

_POLYGONS = 'segmentation=[[x1, y1, x2, y2, x3, y3, ...], ...]'
_RLE = "segmentation={'size': [height, width], 'counts': ...}"
_EXPORT = 'Export it again, or encode the mask with pycocotools.mask.encode'

NO_MASK = Kind(
    f'an object has no mask, but the network learns or is tested on masks; expected {_POLYGONS}, or {_RLE}',
    'Add the masks, remove the objects, or use a network and metrics for boxes alone.',
)
NO_POLYGONS = Kind(
    f'segmentation is neither a list of polygons, each a flat list of numbers, nor a run-length encoding; expected '
    f'{_POLYGONS}, or {_RLE}',
    'Put a single polygon into a list; write points as x1, y1, x2, y2, ... and not as pairs.',
)
FEW_POINTS = Kind('a polygon has fewer than three points', 'Remove the polygon, or the object if it has no other.')
ODD_COORDINATES = Kind('a polygon has an odd number of coordinates', 'Write an x and a y for each point.')
NOT_FINITE = Kind('a coordinate of a polygon is no finite number', 'Correct the coordinate, or remove the polygon.')
FAR_POLYGON = Kind(
    'a polygon reaches far outside its image, which takes pycocotools all memory',
    'Write coordinates in pixels of the image that the annotation belongs to.',
)
OUTSIDE_POLYGON = Kind(
    'a polygon reaches outside its image, and is cut off there', 'Clip it to the image if that is not meant.', False
)
FLAT_POLYGON = Kind(
    'a polygon has no area, so its mask is empty', 'Remove it, or the object if it has no other.', False
)
RLE_KEYS = Kind(f'a run-length encoding lacks size or counts; expected {_RLE}', f'{_EXPORT}.')
RLE_SIZE = Kind(
    'the size of a run-length encoding is not [height, width] of its image',
    f'Correct the size of the image or of the mask (the height is first). {_EXPORT}.',
)
RLE_COUNTS = Kind(
    'the counts of a run-length encoding are neither a list of integers from 0 on, nor a compressed string',
    f'{_EXPORT}.',
)
RLE_SUM = Kind("the counts of a run-length encoding do not add up to the image's number of pixels", f'{_EXPORT}.')
RLE_EMPTY = Kind('a run-length encoding has no pixel of the object', 'Remove the object, or correct it.', False)

Fault = tuple[Kind, object]


class Mask(NamedTuple):
    """The fault of a mask, or else the extent of its polygons."""

    faults: list[Fault]
    extent: Extent | None = None


def check_mask(segmentation: object, size: Size | None) -> Mask:
    """Check a mask.

    Args:
        segmentation: Value of an annotation.
        size: Width and height of its image; None where they are not known, and what depends on them is not checked.
    """
    if isinstance(segmentation, dict):
        return Mask(list(_rle_faults(segmentation, size)))
    if not isinstance(segmentation, list) or not {list}.issuperset(map(type, segmentation)):
        return Mask([(NO_POLYGONS, shortened(segmentation))])
    if not segmentation:
        return Mask([(NO_MASK, shortened(segmentation))])
    faults, extents = [], []
    for polygon in segmentation:
        checked = _check_polygon(polygon, size)
        faults += checked.faults
        extents.append(checked.extent)
    if None in extents:
        return Mask(faults)
    left, top, right, bottom = zip(*extents, strict=True)
    return Mask(faults, (min(left), min(top), max(right), max(bottom)))


def plain_masks(masks: Sequence[object], sizes: np.ndarray, boxes: np.ndarray, used: bool) -> np.ndarray:
    """A mask of the faultless ones among many masks; the others have to be checked one by one.

    Args:
        masks: Values of annotations, N of them.
        sizes: Widths and heights of their images, of shape (N, 2).
        boxes: Extents of their boxes, of shape (N, 4).
        used: Whether masks are used, so that an object needs one.

    Returns:
        Truth values of shape (N,).
    """
    plain = np.zeros(len(masks), bool)
    polygons, owners, firsts = [], [], []
    for i, mask in enumerate(masks):
        if type(mask) is list and mask:
            owners.append(i)
            firsts.append(len(polygons))
            polygons += mask
        elif not mask and not used:
            plain[i] = mask is None or mask == []
    if not polygons:
        return plain
    if not {list}.issuperset(map(type, polygons)):
        return plain
    lengths = np.array([len(polygon) for polygon in polygons])
    coordinates = as_numbers(list(chain.from_iterable(polygons)))
    if lengths.min() < 6 or (lengths % 2).any() or coordinates is None:
        return plain
    starts = np.concatenate([[0], np.cumsum(lengths[:-1] // 2)])
    x, y = coordinates[::2], coordinates[1::2]
    low = np.stack([np.minimum.reduceat(each, starts) for each in (x, y)], 1)
    high = np.stack([np.maximum.reduceat(each, starts) for each in (x, y)], 1)
    flat_ones = np.logical_or.reduceat((low == high).any(1), firsts)
    extents = np.concatenate([np.minimum.reduceat(low, firsts), np.maximum.reduceat(high, firsts)], 1)
    plain[owners] = ~flat_ones & is_inside(extents, sizes[owners]) & agree(extents, boxes[owners])
    return plain


def _check_polygon(polygon: list, size: Size | None) -> Mask:
    if any(isinstance(x, (list, dict)) for x in polygon):
        return Mask([(NO_POLYGONS, polygon)])
    if not are_numbers(polygon):
        return Mask([(NOT_FINITE, polygon)])
    if len(polygon) % 2:
        return Mask([(ODD_COORDINATES, f'{len(polygon)} coordinates')])
    if len(polygon) < 6:
        return Mask([(FEW_POINTS, polygon)])
    xs, ys = polygon[::2], polygon[1::2]
    extent = left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    if size is not None and is_far_outside(extent, size):
        return Mask([(FAR_POLYGON, f'from {left}, {top} to {right}, {bottom} in an image of {size[0]}x{size[1]}')])
    if left == right or top == bottom:
        return Mask([(FLAT_POLYGON, polygon)], extent)
    if size is not None and (left < -1 or top < -1 or right > size[0] + 1 or bottom > size[1] + 1):
        outside = f'from {left}, {top} to {right}, {bottom} in an image of {size[0]}x{size[1]}'
        return Mask([(OUTSIDE_POLYGON, outside)], extent)
    return Mask([], extent)


def _rle_faults(rle: dict, size: Size | None) -> Iterator[Fault]:
    given, counts = rle.get('size'), rle.get('counts')
    if given is None or counts is None:
        yield RLE_KEYS, f'keys {sorted(map(str, rle))}'
        return
    if type(given) is not list or len(given) != 2 or not all(is_whole(side) and side > 0 for side in given):
        yield RLE_SIZE, given
        return
    if size is not None and tuple(given) != size[::-1]:
        yield RLE_SIZE, f'{given}, and the image has [{size[1]}, {size[0]}]'
        return
    runs = _runs(counts)
    if isinstance(runs, str):
        yield RLE_COUNTS, runs
        return
    pixels, total = given[0] * given[1], sum(runs)
    if total != pixels:
        yield RLE_SUM, f'{total}, and the image has {pixels} pixels'
    elif not sum(runs[1::2]):
        yield RLE_EMPTY, counts


def _runs(counts: object) -> Sequence[int] | str:
    """The lengths of the runs, or what is wrong with them."""
    if isinstance(counts, str):
        return _decompressed(counts)
    if type(counts) is not list or not {int}.issuperset(map(type, counts)) or min(counts, default=0) < 0:
        return shortened(counts)
    return counts


def _decompressed(text: str) -> list[int] | str:
    """The lengths of the runs in pycocotools' compressed string, or what is wrong with it.

    A character holds six bits above the code of '0': five of a number, the lowest first, and one that says that another
    character follows. The last one's fifth bit is the sign. From the fourth number on, it is the difference to the
    number two before it.
    """
    if not text.isascii():
        return f'a character that no compressed string has, in {shortened(text)}'
    digits = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if not digits.size:
        return 'an empty string'
    if digits.min() < 0 or digits.max() > 63:
        return f'a character that no compressed string has, in {shortened(text)}'
    ends = np.flatnonzero(digits < 32)
    if not ends.size or ends[-1] != digits.size - 1:
        return f'{shortened(text)} is cut off'
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 8:  # 40 bits, more than any image has pixels
        return f'a number that no image has pixels for, in {shortened(text)}'
    places = np.arange(digits.size) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((digits & 31) << (5 * places), starts)
    numbers -= np.where(digits[ends] & 16, 1 << (5 * lengths), 0)
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    if numbers.min() < 0:
        return f'a negative number of pixels, in {shortened(text)}'
    return numbers.tolist()
