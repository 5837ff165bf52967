"""A small annotation file in COCO's format, and helpers to corrupt it."""

import json
from pathlib import Path

import numpy as np

NAN, INF = float('nan'), float('inf')
SIZE = [48, 64]  # height and width


def clean() -> dict:
    """Four images of 64x48 with an object each, of two categories; one image has a crowd as well."""
    images = [dict(id=i, file_name=f'{i}.png', width=64, height=48) for i in range(1, 5)]
    annotations = [
        dict(id=i, image_id=i, category_id=i % 2 + 1, bbox=[4, 5, 20, 10], area=200, iscrowd=0,
             segmentation=[[4, 5, 24, 5, 24, 15, 4, 15]])
        for i in range(1, 5)
    ]  # fmt: skip
    counts = [48 * 10, 48 * 20, 48 * 34]
    annotations.append(
        dict(id=5, image_id=1, category_id=1, bbox=[10, 0, 20, 48], area=960, iscrowd=1,
             segmentation=dict(size=list(SIZE), counts=counts))
    )  # fmt: skip
    return dict(images=images, categories=[dict(id=1, name='cat'), dict(id=2, name='dog')], annotations=annotations)


def write(folder: Path, data: object, name: str = 'annotations.json') -> Path:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def compressed(counts: list[int]) -> str:
    """Counts as pycocotools' string: five bits per character, differences from the fourth count on."""
    text = ''
    for i, count in enumerate(counts):
        x = count - (counts[i - 2] if i > 2 else 0)
        more = True
        while more:
            digit = x & 31
            x >>= 5
            more = x != (-1 if digit & 16 else 0)
            text += chr((digit | (32 if more else 0)) + 48)
    return text


def random_mask(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A mask of blobs, (height, width), of 0 and 1."""
    mask = np.zeros((height, width), np.uint8)
    for _ in range(3):
        y, x = rng.integers(0, height), rng.integers(0, width)
        mask[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] ^= 1
    return mask
