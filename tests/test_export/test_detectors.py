"""Detectors as graphs give mmdet's detections."""

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet', reason='the detectors are of it')
from helpers.detectors import build
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmdet.structures import DetDataSample

from mmsparx.export import DisagreementError, detection, export, paste_masks
from mmsparx.export.detection import Detections, check_detector, features, matches

FASTER, MASK = '_base_/models/faster-rcnn_r50_fpn.py', '_base_/models/mask-rcnn_r50_fpn.py'


def small(base=MASK, roi_head=None, rpn_head=None, **test):
    """A detector of few channels and 3 classes, whose boxes all have a class with a score above 0.1."""
    extractor = dict(out_channels=8)
    heads = {'bbox_roi_extractor': extractor, 'bbox_head': dict(in_channels=8, fc_out_channels=16, num_classes=3)}
    if base == MASK:
        heads['mask_roi_extractor'] = extractor
        heads['mask_head'] = dict(in_channels=8, conv_out_channels=8, num_convs=1, num_classes=3)
    for name, options in (roi_head or {}).items():
        heads[name].update(options)
    settings = dict(rpn=dict(nms_pre=60, max_per_img=40), rcnn=dict(score_thr=0.1, max_per_img=20))
    for name, options in test.items():
        settings[name].update(options)
    torch.manual_seed(0)
    rpn_head = dict(in_channels=8, feat_channels=8, **(rpn_head or {}))
    model = build('mmdet', base, neck=dict(out_channels=8), rpn_head=rpn_head, roi_head=heads, test_cfg=settings)
    return model.eval()


def predict(model, image, valid):
    """Boxes, scores, labels, and masks of a predicted image whose `valid` pixels are not padding."""
    height, width = valid
    sample = DetDataSample(metainfo=dict(img_shape=valid, ori_shape=valid, scale_factor=(1.0, 1.0)))
    padded = torch.nn.functional.pad(image, (0, -width % 32, 0, -height % 32))
    with torch.inference_mode():
        found = model.predict(padded, [sample], rescale=True)[0].pred_instances
    return found.bboxes, found.scores, found.labels, found.get('masks')


@pytest.mark.parametrize(
    'options',
    [
        dict(base=FASTER),
        dict(),
        dict(roi_head=dict(bbox_head=dict(reg_class_agnostic=True), mask_head=dict(class_agnostic=True))),
        dict(
            rpn_head=dict(
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False),
                bbox_coder=dict(target_means=(0.1, -0.2, 0.3, -0.1), target_stds=(0.1, 0.2, 0.5, 0.4)),
            )
        ),
        dict(rpn=dict(nms_pre=-1, min_bbox_size=9), rcnn=dict(max_per_img=-1)),
    ],
    ids=['Faster R-CNN', 'Mask R-CNN', 'agnostic', 'softmax', 'all boxes'],
)
@pytest.mark.parametrize('size', [(64, 96), (45, 77)])
def test_the_detections_are_those_of_mmdet(options, size):
    model = small(**options)
    image = torch.randn(1, 3, *size)
    boxes, scores, labels, masks = predict(model, image, size)
    with torch.inference_mode():
        found = Detections(model)(image)
    assert len(scores) >= 5
    torch.testing.assert_close(found[0], boxes, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found[1], scores, rtol=1e-5, atol=0)
    assert torch.equal(found[2], labels)
    if masks is not None:
        pasted = paste_masks(found[3].numpy(), found[0].numpy(), size)
        assert (pasted == masks.numpy()).mean() > 0.9999
        assert 0 < pasted.mean() < 1


def test_masks_are_pasted_as_by_mmdet():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(6, 28, 28, generator=generator)
    corners = torch.rand(6, 2, 2, generator=generator).sort(1).values * torch.tensor([70.0, 40.0])
    boxes = torch.cat([corners.flatten(1)[:4], torch.tensor([[0.0, 0.0, 70.0, 40.0], [68.5, 39.0, 70.0, 40.0]])])
    expected, _ = _do_paste_mask(masks[:, None], boxes, 40, 70, skip_empty=False)
    assert np.array_equal(paste_masks(masks.numpy(), boxes.numpy(), (40, 70), 0.4), (expected >= 0.4).numpy())
    outside = np.array([[-20, 3, -9, 8], [90, 50, 99, 60]], np.float32)
    assert not paste_masks(masks[:2].numpy(), outside, (40, 70), 0.4).any()
    assert paste_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (40, 70)).shape == (0, 40, 70)


def test_a_box_without_a_width_gets_the_mask_that_mmdet_gives_it():
    masks, boxes = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.tensor([[9.2, 3, 9.2, 30]])
    expected, part = _do_paste_mask(masks[:, None], boxes, 40, 70)
    found = paste_masks(masks.numpy(), boxes.numpy(), (40, 70), 0.4)
    assert np.array_equal(found[0][part], (expected[0] >= 0.4).numpy())
    assert found.any()
    assert found.sum() == found[0][part].sum()


def test_detections_match_in_any_order_and_once():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 90, 100]], np.float32)
    scores, labels = np.array([0.9, 0.9, 0.5], np.float32), np.array([1, 2, 1])
    given = [boxes, scores, labels]
    assert list(matches([x[::-1] for x in given], given, 1e-4)) == [(2, 0), (1, 1), (0, 2)]
    assert list(matches([x[:1].repeat(2, 0) for x in given], [x[:1] for x in given], 1e-4)) == [(0, 0)]
    assert list(matches([boxes + 0.02, scores, labels], given, 1e-4)) == []
    assert list(matches([boxes, scores, labels + 5], given, 1e-4)) == []
    masks = np.zeros((3, 4, 4), np.float32)
    masks[0, 0, 0] = 1
    assert list(matches([*given, masks[::-1]], [*given, masks], 1e-4)) == [(1, 1)]  # masks differ in the reversed list
    empty = [x[:0] for x in given]
    assert list(matches(empty, given, 1e-4)) == list(matches(given, empty, 1e-4)) == []


def test_a_detector_of_one_size_as_a_file_of_torch_export(tmp_path):
    """The file is run with no, one and many detections."""
    from mmsparx.export import open_file

    model = small(FASTER)
    done = export(model, tmp_path / 'n.pt2', static=(64, 96))
    assert done.largest_error < 1e-5
    image = torch.randn(1, 3, 64, 96)
    boxes, *_ = predict(model, image, (64, 96))
    found = open_file(done.file)(image.numpy())
    assert len(found) == 3
    np.testing.assert_allclose(found[0], boxes.numpy(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(rcnn=dict(nms=dict(type='soft_nms', iou_threshold=0.5))), r'test_cfg\.rcnn\.nms to be dict'),
        (dict(rcnn=dict(nms=dict(type='nms', iou_threshold=0.5, class_agnostic=True))), r'test_cfg\.rcnn\.nms to be'),
        (dict(roi_head=dict(bbox_head=dict(bbox_coder=dict(type='TBLRBBoxCoder')))), 'DeltaXYWHBBoxCoder, got TBLR'),
    ],
)
def test_other_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_detector(small(**options))


@pytest.mark.parametrize(
    ('options', 'change', 'message'),
    [
        (dict(roi_head=dict(bbox_head=dict(bbox_coder=dict(clip_border=False)))), None, 'boxes, scores or labels'),
        (dict(rpn_head=dict(bbox_coder=dict(add_ctr_clamp=True, ctr_clamp=1))), None, 'boxes, scores or labels'),
        ({}, ('within', lambda boxes, height, width: boxes), 'boxes, scores or labels'),
        ({}, ('_MOST_GROWTH', 0.01), 'boxes, scores or labels'),
        ({}, ('features', lambda extractor, maps, boxes: features(extractor, maps, boxes + 4)), 'boxes, scores or'),
        ({}, ('Detections', lambda model: Rolled(model)), 'masks'),
    ],
    ids=['option of the boxes', 'option of the proposals', 'clipping', 'decoding', 'features', 'masks'],
)
def test_other_detections_than_those_of_mmdet_are_refused(options, change, message, tmp_path, monkeypatch):
    """They are refused before a graph is traced."""
    if change:
        monkeypatch.setattr(detection, *change)
    model = small(**options)
    with torch.no_grad():
        model.rpn_head.rpn_reg.weight *= 30
        model.roi_head.bbox_head.fc_cls.weight *= 30
    with pytest.raises(DisagreementError, match=f"the {message}.* are not those of mmdet's predict"):
        export(model, tmp_path / 'n.pt2', static=(64, 96))
    assert not list(tmp_path.iterdir())


class Rolled(Detections):
    """Gives each detection the mask of another one."""

    def forward(self, image):
        boxes, scores, labels, masks = super().forward(image)
        return boxes, scores, labels, 1 - masks.roll(1, 0) ** 2


def test_other_detectors_are_refused(tmp_path):
    model = build('mmdet', '_base_/models/retinanet_r50_fpn.py', neck=dict(out_channels=8, start_level=0))
    with pytest.raises(ValueError, match='expected a detector to be MaskRCNN or FasterRCNN, got RetinaNet'):
        export(model, tmp_path / 'n.onnx')
