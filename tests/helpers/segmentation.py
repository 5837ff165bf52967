"""A tiny set in ADE20K's layout, and the configs of small segmenters. These need mmseg."""

from pathlib import Path

import cv2
import numpy as np

from helpers.configs import CONFIGS

KINDS = ('upernet', 'fpn')


def config(kind: str) -> str:
    return str(CONFIGS / f'segmentation/{kind}_sparx_mini_overfit.py')


def write_ade(folder: Path, split: str, count: int) -> None:
    """`count` 64x64 images of a wall with one bright rectangle: a building or a sky."""
    rng = np.random.default_rng(0)
    images, labels = (folder / kind / split for kind in ('images', 'annotations'))
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for i in range(count):
        image = rng.integers(0, 80, (64, 64, 3), dtype=np.uint8)
        label = np.ones((64, 64), np.uint8)  # 0 is ignored
        x, y, w, h = (int(v) for v in (*rng.integers(4, 24, 2), *rng.integers(16, 32, 2)))
        image[y : y + h, x : x + w] = (40, 200, 250) if i % 2 else (250, 60, 40)
        label[y : y + h, x : x + w] = 2 + i % 2
        cv2.imwrite(str(images / f'{i}.jpg'), image)
        cv2.imwrite(str(labels / f'{i}.png'), label)
