"""Helpers to run the commands on tiny sets, for any task; a tiny COCO set, which needs mmdet."""

import argparse
import importlib.util
import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmsparx.cli.parser import make_parser

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'configs/detection/mask_rcnn_sparx_mini_overfit.py')


def parse(command: str, *arguments: object) -> argparse.Namespace:
    """The parsed arguments of a command of `mmsparx`."""
    return make_parser().parse_args([command, *map(str, arguments)])


def run_command(command: str, *arguments: object) -> int | None:
    """Run a command of `mmsparx` in this process, and let its errors propagate."""
    args = parse(command, *arguments)
    return args.run(args)


def run_script(script: Path, *arguments: object) -> None:
    """Run a script in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [str(script), *map(str, arguments)])
        runpy.run_path(str(script), run_name='__main__')


def load_tool(name: str):
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(f'tool_{name}', ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_coco(folder: Path, split: str, count: int, seed: int) -> Path:
    """`count` 64x64 images, each with one bright rectangle: a 'person' or a 'car'; the annotation file."""
    from mmdet.datasets import CocoDataset

    rng = np.random.default_rng(seed)
    (folder / split).mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        image = rng.integers(0, 80, (64, 64, 3), dtype=np.uint8)
        x, y, w, h = (int(v) for v in (*rng.integers(4, 24, 2), *rng.integers(16, 32, 2)))
        image[y : y + h, x : x + w] = (40, 200, 250) if i % 2 else (250, 60, 40)
        cv2.imwrite(str(folder / split / f'{i}.png'), image)
        images.append(dict(id=i, file_name=f'{i}.png', width=64, height=64))
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        annotations.append(
            dict(id=i + 1, image_id=i, category_id=1 + i % 2 * 2, bbox=[x, y, w, h], area=w * h, iscrowd=0,
                 segmentation=[polygon])
        )  # fmt: skip
    path = folder / 'annotations' / f'instances_{split}.json'
    path.parent.mkdir(exist_ok=True)
    categories = [dict(id=i, name=name) for i, name in enumerate(CocoDataset.METAINFO['classes'], 1)]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return path


def overrides(data: Path, iters: int = 2, task: str = 'detection', **more) -> list[str]:
    """--cfg-options that train a few iterations on 64x64 images of `data`, evaluating at the end.

    For the mini configs of detection, and of segmentation (`task`).
    """
    options = {
        'train_cfg.max_iters': iters,
        'train_cfg.val_interval': iters,
        'default_hooks.checkpoint.interval': 1,
        'default_hooks.checkpoint.max_keep_ckpts': 10,
        'default_hooks.logger.interval': 1,
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.pipeline.2.scale': '(64,64)',
        'val_dataloader.dataset.pipeline.1.scale': '(64,64)',
        'test_dataloader.dataset.pipeline.1.scale': '(64,64)',
        'randomness.seed': 0,
        'log_level': 'ERROR',
    }
    for loader in ('train', 'val', 'test'):
        options[f'{loader}_dataloader.dataset.data_root'] = str(data)
        if task == 'segmentation':  # in detection it detects a set without images
            options[f'{loader}_dataloader.dataset.serialize_data'] = False  # it would collect garbage
    if task == 'detection':
        # Few regions, as small images have them: what is computed for each takes most of a run.
        options |= {f'model.{cfg}.nms_pre': 100 for cfg in ('train_cfg.rpn_proposal', 'test_cfg.rpn')}
        options |= {f'model.{cfg}.max_per_img': 40 for cfg in ('train_cfg.rpn_proposal', 'test_cfg.rpn')}
        options |= {'model.train_cfg.rcnn.sampler.num': 32, 'model.test_cfg.rcnn.max_per_img': 10}
        options['model.test_cfg.rcnn.score_thr'] = 0.001
        for evaluator in ('val', 'test'):
            options[f'{evaluator}_evaluator.ann_file'] = str(data / 'annotations/instances_train2017.json')
    return [f'{key}={value}' for key, value in {**options, **more}.items()]


def scalars(work_dir: Path) -> list[dict]:
    """The entries that the newest run in a work directory logged, in order."""
    newest = max(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(line) for line in newest.read_text().splitlines()]


def read_drawn(shown: Path, tested: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(image, drawing of --show-dir) of each tested image, by its name; there are no other drawings."""

    def read(folder: Path) -> dict[str, np.ndarray]:
        files = [path for path in folder.rglob('*') if path.is_file()]
        return {path.relative_to(folder).as_posix(): cv2.imread(str(path)) for path in files}

    images, drawn = read(tested), read(shown)
    assert drawn.keys() == images.keys()
    assert all(image is not None for image in drawn.values())
    return {name: (image, drawn[name]) for name, image in images.items()}
