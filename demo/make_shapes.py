"""Draw an instance-segmentation set of shapes in COCO's format: training and validation images.

Four kinds of shapes of any size, rotation and colour lie before a noisy background, throw shadows and
may overlap a little. A shape's mask and box are those of its visible part. Every image
has a seed of its own, made of --seed, its split and its number: the same arguments give the same
images, and no image of one split is in the other. Files are only written to a folder with files if
--force is given.
"""

# This is a command for people: it prints.
# ruff: noqa: T201

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mmsparx.engine.outputs import check_empty

CLASSES = ('circle', 'triangle', 'square', 'star')
SPLITS = ('train', 'val')
SMALLEST_SIDE = 64
# A shape is not placed if less than this part of it would stay visible, or if it would hide so much of an earlier one:
# every visible shape is annotated.
LEAST_VISIBLE = 0.85
SUBPIXEL_BITS = 4


@dataclass
class Drawing:
    """pixels (H, W, 3), blue first; label and mask (H, W) of each shape, from the back to the front."""

    pixels: np.ndarray
    labels: list[int]
    masks: list[np.ndarray]


def _polygon(corners: int, inner: float | None = None) -> np.ndarray:
    """A regular polygon in the unit circle, (corners, 2); with `inner`, a star of that inner radius."""
    points = corners if inner is None else 2 * corners
    angle = np.arange(points) * (2 * np.pi / points)
    radius = np.ones(points)
    if inner is not None:
        radius[1::2] = inner
    return np.stack((radius * np.sin(angle), -radius * np.cos(angle)), 1)


def _contours(label: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The outlines of a shape in the unit circle."""
    kind = CLASSES[label]
    if kind == 'triangle':
        return [_polygon(3)]
    if kind == 'square':
        return [_polygon(4)]
    if kind == 'star':
        return [_polygon(5, rng.uniform(0.4, 0.5))]
    return [_polygon(72)]


def _place(contours: list[np.ndarray], size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Stretch, scale, turn and move outlines into an image; in pixels."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    stretch = np.diag(rng.uniform(0.85, 1.0, 2))
    radius = size * rng.uniform(0.2, 0.32)
    centre = rng.uniform(0.2, 0.8, 2) * size
    return [radius * contour @ stretch @ turn.T + centre for contour in contours]


def _coverage(contours: list[np.ndarray], size: int) -> np.ndarray:
    """The share of each pixel that the outlines enclose, (size, size) in [0, 1]."""
    points = [np.round(contour * 2**SUBPIXEL_BITS).astype(np.int32) for contour in contours]
    canvas = np.zeros((size, size), np.uint8)
    cv2.fillPoly(canvas, points, 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return canvas.astype(np.float32) / 255


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    hsv = np.array([[(rng.uniform(0, 360), rng.uniform(*saturation), rng.uniform(*value))]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0]


def _noise(size: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise, (size, size, 1), with `cells` bumps a side."""
    coarse = rng.standard_normal((cells, cells), np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]


def _waves(size: int, rng: np.random.Generator) -> np.ndarray:
    """Stripes or, of two directions, a weave: (size, size, 1) in [-1, 1]."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    pattern = np.ones((size, size), np.float32)
    for _ in range(rng.integers(1, 3)):
        angle, frequency = rng.uniform(0, np.pi), rng.uniform(20, 90)
        pattern *= np.sin(frequency * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 2 * np.pi))
    return pattern[..., None]


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A gradient between two dull colours, with clouds and faint stripes."""
    one, other = (_colour(rng, (0.05, 0.5), (0.25, 0.95)) for _ in range(2))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    blend = np.clip(x * np.cos(angle) + y * np.sin(angle) + 0.5, 0, 1)[..., None]
    canvas = one * blend + other * (1 - blend)
    for cells in (5, 12, 30):
        canvas = canvas + rng.uniform(0.01, 0.03) * _noise(size, cells, rng)
    return canvas + rng.uniform(0, 0.03) * _waves(size, rng)


def _surface(size: int, rng: np.random.Generator) -> np.ndarray:
    """The surface of a shape: a bright colour, shaded, and striped half of the time."""
    shade = 1 + 0.12 * _noise(size, 4, rng)
    if rng.random() < 0.5:
        shade = shade + rng.uniform(0.02, 0.06) * _waves(size, rng)
    return _colour(rng, (0.45, 1.0), (0.45, 1.0)) * shade


def draw(seed: tuple[int, ...], size: int) -> Drawing:
    """The image of a seed.

    Args:
        seed: Integers of at least 0.
        size: Side, in pixels.
    """
    rng = np.random.default_rng(seed)
    canvas = _background(size, rng)
    labels, masks, areas = [], [], []
    for _ in range(rng.integers(1, 5)):
        label = int(rng.integers(len(CLASSES)))
        contours = _place(_contours(label, rng), size, rng)
        coverage = _coverage(contours, size)
        surface, shadow_offset = _surface(size, rng), rng.uniform(0.005, 0.02, 2) * size
        mask = coverage > 0.5
        left = [earlier & ~mask for earlier in masks]
        if any(rest.sum() < LEAST_VISIBLE * area for rest, area in zip(left, areas, strict=True)):
            continue
        shadow = _coverage([contour + shadow_offset for contour in contours], size)
        shadow = cv2.GaussianBlur(shadow, (0, 0), 0.012 * size)[..., None]
        canvas = canvas * (1 - 0.45 * shadow)
        canvas = canvas + coverage[..., None] * (surface - canvas)
        labels, masks, areas = [*labels, label], [*left, mask], [*areas, mask.sum()]
    canvas = canvas + rng.uniform(0.005, 0.04) * rng.standard_normal(canvas.shape, np.float32)
    return Drawing((canvas.clip(0, 1) * 255).round().astype(np.uint8), labels, masks)


def _annotation(mask: np.ndarray, label: int) -> dict:
    """COCO's record of a shape; run lengths, exact to the pixel."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(
        category_id=label + 1,
        segmentation=dict(size=rle['size'], counts=rle['counts'].decode('ascii')),
        bbox=coco_mask.toBbox(rle).tolist(),
        area=int(coco_mask.area(rle)),
        iscrowd=0,
    )


def _write_image(number: int, folder: Path, size: int, seed: tuple[int, ...]) -> tuple[dict, list[dict]]:
    """Draw one image into a folder; COCO's records of it and of its shapes."""
    image_seed = (*seed, number)
    drawing = draw(image_seed, size)
    path = folder / f'{number:06d}.jpg'
    if not cv2.imwrite(str(path), drawing.pixels, [cv2.IMWRITE_JPEG_QUALITY, 95]):
        raise OSError(f'{path} could not be written')
    shapes = [_annotation(mask, label) for label, mask in zip(drawing.labels, drawing.masks, strict=True)]
    return dict(id=number, file_name=path.name, height=size, width=size, seed=image_seed), shapes


def write_split(root: Path, split: str, count: int, size: int = 192, seed: int = 0) -> Path:
    """Draw images into `root`/`split`, and their annotations into `root`/annotations.

    Args:
        root: Folder, which is created; files of an earlier set in it are overwritten.
        split: Split, 'train' or 'val'; the two have no image in common.
        count: Number of images.
        size: Side of an image, in pixels.
        seed: Seed of the images.

    Returns:
        The annotation file.

    Raises:
        ValueError: a split, count, size or seed out of range.
    """
    if split not in SPLITS:
        raise ValueError(f'split: expected {" or ".join(SPLITS)}, got {split!r}')
    for name, value, least in (('count', count, 1), ('size', size, SMALLEST_SIDE), ('seed', seed, 0)):
        if value < least:
            raise ValueError(f'{name}: expected at least {least}, got {value}')
    folder, annotation_file = root / split, root / 'annotations' / f'instances_{split}.json'
    folder.mkdir(parents=True, exist_ok=True)
    annotation_file.parent.mkdir(exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        image, shapes = _write_image(number, folder, size, (seed, SPLITS.index(split)))
        images.append(image)
        for shape in shapes:
            annotations.append(dict(id=len(annotations) + 1, image_id=image['id'], **shape))
        if len(images) % 250 == 0 or len(images) == count:
            print(f'{split}: {len(images)} of {count} images', flush=True)
    content = dict(
        info=dict(description=f'{count} images of shapes, {split}, seed {seed}'),
        images=images,
        annotations=annotations,
        categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)],
    )
    annotation_file.write_text(json.dumps(content))
    return annotation_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('root', type=Path, help='folder to write into: train/, val/ and annotations/')
    parser.add_argument('--train', type=int, default=2400, metavar='N', help='training images (default: 2400)')
    parser.add_argument('--val', type=int, default=200, metavar='N', help='validation images (default: 200)')
    parser.add_argument('--size', type=int, default=192, metavar='PIXELS', help='side of an image (default: 192)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the images (default: 0)')
    parser.add_argument('--force', action='store_true', help='overwrite files of an earlier set')
    args = parser.parse_args()
    try:
        check_empty(args.root, args.force)
        for split, count in zip(SPLITS, (args.train, args.val), strict=True):
            print(write_split(args.root, split, count, args.size, args.seed))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == '__main__':
    main()
