"""The accuracy of an exported network against that of its checkpoint, in 32 bits and in 8, on a config's test set.

Detectors: box and mask AP by pycocotools. Classifiers: top-1. Images, preparation and classes are those of `mmsparx
infer`, which runs the checkpoint by torch, and the file of ONNX by onnxruntime. For 8 bits, activations are calibrated
on images of the training set.

    python -m benchmarks.exported_accuracy CONFIG CHECKPOINT
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmsparx.cli.described import export_named
from mmsparx.cli.models import load_model
from mmsparx.engine.calibration import IMAGES
from mmsparx.engine.exported import prepare
from mmsparx.engine.inference import Network, load_network
from mmsparx.export.description import read_description
from mmsparx.export.int8 import quantise
from mmsparx.zoo import resolve_config


def dataset_of(cfg: Config, part: str):
    """The dataset of a part of a config: 'train_dataloader' or 'test_dataloader'."""
    init_default_scope(cfg.default_scope)
    return DATASETS.build(cfg[part].dataset)


def images_of(dataset, number: int | None = None) -> list[dict]:
    """A dataset's entries for a number of images that are spread over it, by default for all."""
    chosen = range(len(dataset)) if number is None else np.linspace(0, len(dataset) - 1, number).astype(int).tolist()
    return [dataset.get_data_info(i) for i in chosen]


def average_precisions(results: Sequence[dict], dataset) -> dict[str, float]:
    """Box and mask AP of the results of `mmsparx infer` for the images of mmdet's COCO dataset."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(dataset.ann_file)
        found = []
        for result, info in zip(results, images_of(dataset), strict=True):
            for i, (x1, y1, x2, y2) in enumerate(result['bboxes']):
                one = {'image_id': info['img_id'], 'category_id': dataset.cat_ids[result['labels'][i]]}
                box = [x1, y1, x2 - x1, y2 - y1]
                found.append({**one, 'bbox': box, 'score': result['scores'][i], 'segmentation': result['masks'][i]})
        given, figures = truth.loadRes(found), {}
        for name, kind in (('box AP', 'bbox'), ('mask AP', 'segm')):
            evaluation = COCOeval(truth, given, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            figures[name] = float(evaluation.stats[0])
    return figures


def accuracies(results: Sequence[dict], dataset) -> dict[str, float]:
    """Top-1 accuracy of the results of `mmsparx infer` for the images of mmpretrain's dataset."""
    infos = images_of(dataset)
    right = [result['pred_label'] == info['gt_label'] for result, info in zip(results, infos, strict=True)]
    return {'top-1': sum(right) / len(right)}


MEASURES: dict[str, Callable] = {'mmdet': average_precisions, 'mmpretrain': accuracies}


def evaluate(network: Network, dataset, measure: Callable) -> dict[str, float]:
    """The figures of a network, and seconds per image."""
    images = [cv2.imread(info['img_path']) for info in images_of(dataset)]
    start = time.perf_counter()
    results = [network(image)[1] for image in images]
    seconds = (time.perf_counter() - start) / len(images)
    return {**measure(results, dataset), 's per image': seconds}


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table: a row for the checkpoint, the exported file, and the file in 8 bits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('config', help='config of a detector with masks or a classifier, by name or file')
    parser.add_argument('checkpoint', help='checkpoint of it')
    args = parser.parse_args(argv)
    path = str(resolve_config(args.config))
    cfg = Config.fromfile(path)
    test, measure = dataset_of(cfg, 'test_dataloader'), MEASURES[cfg.default_scope]
    common = {'score_thr': 0.3, 'max_overlap': 1.0}
    checkpoint = argparse.Namespace(config=path, checkpoint=args.checkpoint, device='cpu', model=None, **common)
    rows = {'torch': evaluate(load_network(checkpoint), test, measure)}
    with tempfile.TemporaryDirectory() as folder:
        file, small = Path(folder, 'network.onnx'), Path(folder, 'int8.onnx')
        print(export_named(load_model(path, args.checkpoint, device='cpu'), str(file)), flush=True)
        about = read_description(file)
        train = images_of(dataset_of(cfg, 'train_dataloader'), IMAGES)
        quantise(file, small, (prepare(cv2.imread(info['img_path']), about) for info in train))
        small.with_suffix('.json').write_bytes(file.with_suffix('.json').read_bytes())
        for name, each in (('onnxruntime', file), ('onnxruntime, 8 bits', small)):
            given = argparse.Namespace(config=None, checkpoint=None, device=None, model=str(each), **common)
            rows[name] = {**evaluate(load_network(given), test, measure), 'MB': each.stat().st_size / 1e6}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    print('| |', ' | '.join(names), '|\n|---|', '---|' * len(names), sep='')
    for row, figures in rows.items():
        print(f'| {row} |', ' | '.join(f'{figures[name]:.4f}' if name in figures else '' for name in names), '|')


if __name__ == '__main__':
    main()
