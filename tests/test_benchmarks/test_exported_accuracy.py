"""Accuracies of exported networks, on predictions with known figures."""

import subprocess
import sys

import pytest
from helpers.tools import ROOT

pytest.importorskip('mmdet', reason='the dataset is one of it')
pytest.importorskip('onnxruntime', reason='the benchmark runs files by it')
from mmengine.registry import init_default_scope
from pycocotools.coco import COCO

from benchmarks import exported_accuracy


def test_the_annotations_themselves_have_an_ap_of_one(tmp_path):
    script = [sys.executable, 'demo/make_shapes.py', tmp_path, '--train', '1', '--val', '4', '--size', '64']
    subprocess.run(script, cwd=ROOT, check=True, capture_output=True)
    from mmdet.datasets import CocoDataset

    init_default_scope('mmdet')
    classes = ('circle', 'triangle', 'square', 'star')
    file = str(tmp_path / 'annotations/instances_val.json')
    dataset = CocoDataset(ann_file=file, data_prefix={'img': str(tmp_path / 'val/')}, metainfo={'classes': classes})
    truth = COCO(file)
    results = []
    for info in exported_accuracy.images_of(dataset):
        found = truth.loadAnns(truth.getAnnIds(info['img_id']))
        boxes = [[x, y, x + width, y + height] for x, y, width, height in (each['bbox'] for each in found)]
        labels = [dataset.cat2label[each['category_id']] for each in found]
        masks = [truth.annToRLE(each) for each in found]
        results.append({'bboxes': boxes, 'labels': labels, 'scores': [0.9] * len(found), 'masks': masks})
    assert exported_accuracy.average_precisions(results, dataset) == {'box AP': 1.0, 'mask AP': 1.0}
    for result in results:
        result['labels'] = [(label + 1) % 4 for label in result['labels']]
    assert exported_accuracy.average_precisions(results, dataset)['mask AP'] < 0.1


def test_top_1():
    infos = [{'gt_label': label} for label in (0, 1, 2, 2)]
    dataset = type('Dataset', (), {'get_data_info': lambda _, i: infos[i], '__len__': lambda _: 4})()
    results = [{'pred_label': label} for label in (0, 1, 2, 0)]
    assert exported_accuracy.accuracies(results, dataset) == {'top-1': 0.75}
