"""Heads of mmdet and mmseg with more requirements of a backbone: a training step and a prediction each."""

import copy
import math

import torch
from helpers.detectors import build, detection_batch, train_step
from mmengine.structures import PixelData


def check(model, batch):
    loss, without_gradient = train_step(model, batch)
    assert math.isfinite(loss)
    assert without_gradient == set()
    model.eval()
    with torch.no_grad():
        return model(**batch, mode='predict')


def segmentation_batch(model):
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96)))
    sample.gt_sem_seg = PixelData(data=torch.randint(0, 19, (1, 64, 96)))
    images = [torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8) for _ in range(2)]
    return model.data_preprocessor(dict(inputs=images, data_samples=[sample, copy.deepcopy(sample)]), training=True)


def test_dino():
    model = build('mmdet', 'dino/dino-4scale_r50_8xb2-12e_coco.py', (1, 2, 3), num_queries=20)
    found = check(model, detection_batch(model, with_mask=False))
    assert [len(sample.pred_instances) for sample in found] == [300, 300]


def test_rtmdet():
    model = build('mmdet', 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py', (1, 2, 3))
    check(model, detection_batch(model, with_mask=False))


def test_pointrend_of_mmdet():
    model = build('mmdet', 'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py')
    check(model, detection_batch(model))


def test_pointrend_of_mmseg():
    """Its `mode='tensor'`, which mmseg's get_flops.py uses, fails with any backbone."""
    size = dict(type='SegDataPreProcessor', size=(64, 96), seg_pad_val=255)
    base = 'point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py'
    model = build('mmseg', base, pretrained=None, data_preprocessor=size)
    model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    found = check(model, segmentation_batch(model))
    assert [sample.pred_sem_seg.shape for sample in found] == [(64, 96)] * 2
