"""The time of the check of an annotation file, on a generated file without faults.

Objects have a box and a polygon; every hundredth image has a crowd as a run-length encoding. The time is that of the
whole check: reading the file, which json takes, and looking at every value.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmarks.report import environment, hardware_name, markdown
from mmsparx.annotations.coco import check_coco

WIDTH, HEIGHT = 640, 480
CATEGORIES = 80


def write_clean_file(path: Path, images: int, objects: int, points: int, encoded: bool = False) -> None:
    """Write an annotation file without faults.

    Args:
        path: File to write.
        images: Number of images.
        objects: Number of objects of each image.
        points: Number of points of each polygon.
        encoded: True for masks as compressed run-length encodings instead of polygons.
    """
    rng = np.random.default_rng(0)
    turns = np.arange(points) * 2 * np.pi / points
    circle = np.stack([np.cos(turns), np.sin(turns)], 1)

    def annotations() -> Iterator[dict]:
        number = 0
        for image in range(1, images + 1):
            for _ in range(objects):
                number += 1
                radii = rng.uniform(10, 100, 2)
                centre = rng.uniform(radii, np.array([WIDTH, HEIGHT]) - radii)
                polygon = (centre + radii * circle * rng.uniform(0.9, 1, (points, 1))).round(2)
                x, y = polygon.min(0)
                w, h = polygon.max(0) - (x, y)
                box = [round(float(v), 2) for v in (x, y, w, h)]
                mask = column_mask(*box) if encoded else [polygon.ravel().tolist()]
                yield annotation(number, image, box, mask, 0)
            if image % 100 == 0:
                number += 1
                counts = [HEIGHT * 10, *[HEIGHT // 2] * 200, HEIGHT * (WIDTH - 110)]
                mask = {'size': [HEIGHT, WIDTH], 'counts': counts}
                yield annotation(number, image, [10, 0, 100, HEIGHT], mask, 1)

    def annotation(number: int, image: int, box: list, mask: list | dict, crowd: int) -> dict:
        area = round(box[2] * box[3] / 2, 2)
        return dict(id=number, image_id=image, category_id=number % CATEGORIES + 1, bbox=box, area=area, iscrowd=crowd,
                    segmentation=mask)  # fmt: skip

    with open(path, 'w') as file:
        categories = [dict(id=i, name=f'category {i}') for i in range(1, CATEGORIES + 1)]
        file.write(f'{{"categories": {json.dumps(categories)}, "images": [')
        for i in range(1, images + 1):
            image = json.dumps(dict(id=i, file_name=f'{i:012}.jpg', width=WIDTH, height=HEIGHT))
            file.write(('' if i == 1 else ', ') + image)
        file.write('], "annotations": [')
        for i, each in enumerate(annotations()):
            file.write(('' if i == 0 else ', ') + json.dumps(each))
        file.write(']}')


def column_mask(x: float, y: float, w: float, h: float) -> dict:
    """A box as a compressed run-length encoding."""
    from pycocotools import mask

    left, top, width, height = int(x), int(y), int(w), int(h)
    bottom = HEIGHT - top - height
    counts = [left * HEIGHT + top, *[height, top + bottom] * (width - 1), height]
    counts.append(WIDTH * HEIGHT - sum(counts))
    rle = mask.frPyObjects({'size': [HEIGHT, WIDTH], 'counts': counts}, HEIGHT, WIDTH)
    return {'size': [HEIGHT, WIDTH], 'counts': rle['counts'].decode()}


def measure(path: Path, times: int) -> dict:
    """Medians of the seconds that json takes to read a file, and that the whole check takes: elapsed, and of the CPU.

    The two are equal on a machine without other work, as both run in one thread.
    """
    taken: dict[str, list[tuple[float, float]]] = {'json.load': [], 'check': []}
    for _ in range(times):
        with _timed(taken['json.load']), open(path) as file:
            json.load(file)
        with _timed(taken['check']):
            checked = check_coco(path)
        if text := checked.findings.text(is_error=True) + checked.findings.text(is_error=False):
            raise RuntimeError(f'the file is not clean:\n{text}')
    medians = {name: [statistics.median(each) for each in zip(*pairs, strict=True)] for name, pairs in taken.items()}
    return {
        f'{name} ({unit})': x for name, both in medians.items() for unit, x in zip(('s', 'CPU s'), both, strict=True)
    }


@contextmanager
def _timed(taken: list[tuple[float, float]]) -> Iterator[None]:
    elapsed, cpu = time.perf_counter(), time.process_time()
    yield
    taken.append((time.perf_counter() - elapsed, time.process_time() - cpu))


def main(arguments: list[str] | None = None) -> list[dict]:
    """Measure and print a table; returns its rows."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.annotations', description=__doc__, allow_abbrev=False)
    parser.add_argument('--images', type=int, default=100_000, help='number of images')
    parser.add_argument('--objects', type=int, nargs='+', default=[1, 7], help='numbers of objects of each image')
    parser.add_argument('--points', type=int, default=24, help='number of points of each polygon')
    parser.add_argument('--encoded', action='store_true', help='masks as compressed run-length encodings')
    parser.add_argument('--times', type=int, default=3, help='number of measurements')
    args = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'annotations.json')
        for objects in args.objects:
            write_clean_file(path, args.images, objects, args.points, args.encoded)
            case = {'images': args.images, 'objects of each': objects, 'MiB': os.path.getsize(path) / 2**20}
            rows.append(case | measure(path, args.times))
    print(f'on {hardware_name(environment(torch.device("cpu")))}')
    print(markdown(rows))
    return rows


if __name__ == '__main__':
    main()
