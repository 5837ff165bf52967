"""Faster R-CNN and Mask R-CNN of mmdet as graphs, from one image to its detections.

Between the heads, mmdet takes decisions that depend on values, and calls operators of mmcv that no other runtime has.
The steps here compute the same for one image of any size. Suppression and RoIAlign are torchvision's operators, for
which ONNX and OpenVINO have operators of their own.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from mmsparx.export.forms import pad_to_multiple

_MOST_GROWTH = abs(math.log(16 / 1000))  # of the logarithm of a side, as in mmdet
# The parts that are known, by where they are in a detector.
_KNOWN = {
    '': ('MaskRCNN', 'FasterRCNN'),
    'rpn_head': ('RPNHead',),
    'rpn_head.bbox_coder': ('DeltaXYWHBBoxCoder',),
    'roi_head': ('StandardRoIHead',),
    'roi_head.bbox_roi_extractor': ('SingleRoIExtractor',),
    'roi_head.bbox_head': ('ConvFCBBoxHead', 'Shared2FCBBoxHead', 'Shared4Conv1FCBBoxHead'),
    'roi_head.bbox_head.bbox_coder': ('DeltaXYWHBBoxCoder',),
    'roi_head.mask_roi_extractor': ('SingleRoIExtractor', 'NoneType'),
    'roi_head.mask_head': ('FCNMaskHead', 'NoneType'),
}


def check_detector(model: nn.Module) -> None:
    """Fail for a detector whose parts or settings are others than those of Faster R-CNN and Mask R-CNN.

    Raises:
        ValueError: There is such a part or setting; the message names it.
    """
    for place, kinds in _KNOWN.items():
        part: Any = model
        for name in filter(None, place.split('.')):
            part = getattr(part, name, None)
        _expect(type(part).__name__ in kinds, place or 'a detector', ' or '.join(kinds), type(part).__name__)
    head = model.roi_head
    for extractor in (head.bbox_roi_extractor, head.mask_roi_extractor if head.with_mask else head.bbox_roi_extractor):
        for layer in extractor.roi_layers:
            known = type(layer).__name__ == 'RoIAlign' and layer.pool_mode == 'avg'
            _expect(known, 'roi_layer', 'RoIAlign by averages', type(layer).__name__)
    _expect(not head.bbox_head.custom_activation, 'loss_cls', 'one with a softmax', 'an activation of its own')
    for name, part in (('rpn', model.rpn_head), ('rcnn', head)):
        nms = part.test_cfg.nms
        plain = nms.get('type', 'nms') == 'nms' and set(nms) <= {'type', 'iou_threshold'}
        _expect(plain, f'test_cfg.{name}.nms', "dict(type='nms', iou_threshold=...)", dict(nms))
    padding = model.data_preprocessor
    _expect(padding.pad_value == 0, 'data_preprocessor.pad_value', '0', padding.pad_value)


def _expect(known: bool, place: str, expected: str, got: Any) -> None:
    if not known:
        raise ValueError(f'export: expected {place} to be {expected}, got {got}; other detectors are not exported')


class Proposals(nn.Module):
    """The boxes that mmdet's `RPNHead` proposes.

    Args:
        head: An `RPNHead`.
        settings: The head's `test_cfg`.
    """

    def __init__(self, head: nn.Module, settings: Mapping):
        super().__init__()
        self.head = head
        self.most_per_level, self.most = settings.get('nms_pre', -1), settings['max_per_img']
        self.overlap, self.least_side = settings['nms']['iou_threshold'], settings.get('min_bbox_size', -1)

    def forward(self, maps: Sequence[Tensor], height: int, width: int) -> Tensor:
        """Maps (1, C, h, w) of a pyramid, and the size of the image -> (N, 4), x1, y1, x2, y2 in pixels."""
        found = []
        for level, (scores, deltas) in enumerate(zip(*self.head(maps), strict=True)):
            priors = self.head.prior_generator.single_level_grid_priors(scores.shape[2:], level, device=scores.device)
            scores, deltas = scores[0].permute(1, 2, 0), deltas[0].permute(1, 2, 0).reshape(-1, 4)
            if self.head.use_sigmoid_cls:
                scores = scores.reshape(-1).sigmoid()
            else:
                scores = scores.reshape(-1, 2).softmax(-1)[:, 0]
            number = scores.shape[0]
            if self.most_per_level > 0:
                number = torch.sym_min(number, self.most_per_level)
            best, index = scores.topk(number)
            boxes = within(decoded(self.head.bbox_coder, priors[index], deltas[index]), height, width)
            found.append((boxes, best, torch.full_like(best, level)))
        boxes, scores, levels = map(torch.cat, zip(*found, strict=True))
        if self.least_side >= 0:
            sides = boxes[:, 2:] - boxes[:, :2]
            (large,) = (sides > self.least_side).all(1).nonzero(as_tuple=True)
            boxes, scores, levels = boxes[large], scores[large], levels[large]
        return boxes[unsuppressed(boxes, scores, levels, self.overlap, max(height, width))[: self.most]]


class Detections(nn.Module):
    """A graph from an image to its detections, those of mmdet's `MaskRCNN` and `FasterRCNN`.

    Args:
        model: Detector that `check_detector` has passed.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.proposals = Proposals(model.rpn_head, model.rpn_head.test_cfg)
        settings = model.roi_head.test_cfg
        self.most, self.overlap = settings.max_per_img, settings.nms.iou_threshold
        self.divisor = model.data_preprocessor.pad_size_divisor
        self.register_buffer('threshold', torch.tensor(float(settings.score_thr)))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Image (1, 3, H, W) -> boxes (N, 4), scores (N,), labels (N,), and masks (N, s, s) if there is a mask head.

        The best come first. Boxes are x1, y1, x2, y2 in pixels of the image; a mask has the probability of each place
        of an s x s grid over its box.
        """
        maps, boxes, scores = self.candidates(image)
        row, label = (scores > self.threshold).nonzero(as_tuple=True)
        scores, boxes = scores[row, label], boxes[row, label if boxes.shape[1] > 1 else 0]
        kept = unsuppressed(boxes, scores, label, self.overlap, max(*image.shape[2:]))
        kept = kept[: self.most] if self.most > 0 else kept
        boxes, scores, label = boxes[kept], scores[kept], label[kept]
        head = self.model.roi_head
        if not head.with_mask:
            return boxes, scores, label
        masks = head.mask_head(features(head.mask_roi_extractor, maps, boxes))
        of_class = 0 if head.mask_head.class_agnostic else label
        return boxes, scores, label, masks[torch.arange(label.shape[0], device=label.device), of_class].sigmoid()

    def candidates(self, image: Tensor) -> tuple[Sequence[Tensor], Tensor, Tensor]:
        """The maps, and for the proposals: boxes (N, classes, 4), or (N, 1, 4) for any class; scores (N, classes)."""
        height, width = image.shape[2:]
        maps = self.model.extract_feat(pad_to_multiple(image, self.divisor))
        proposals = self.proposals(maps, height, width)
        extractor, head = self.model.roi_head.bbox_roi_extractor, self.model.roi_head.bbox_head
        logits, deltas = head(features(extractor, maps, proposals))
        boxes = decoded(head.bbox_coder, proposals[:, None], deltas.unflatten(1, (-1, 4)))
        return maps, within(boxes, height, width), logits.softmax(-1)[:, :-1]


def decoded(coder: nn.Module, boxes: Tensor, deltas: Tensor) -> Tensor:
    """Boxes (..., 4) as deltas (..., 4) of mmdet's `DeltaXYWHBBoxCoder` change them."""
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    size = boxes[..., 2:] - boxes[..., :2]
    center = (boxes[..., :2] + boxes[..., 2:]) * 0.5 + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-_MOST_GROWTH, _MOST_GROWTH).exp() * 0.5
    return torch.cat([center - half, center + half], -1)


def within(boxes: Tensor, height: int, width: int) -> Tensor:
    """The part of boxes (..., 4) in an image of that size."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], -1)


def unsuppressed(boxes: Tensor, scores: Tensor, groups: Tensor, overlap: float, side: int) -> Tensor:
    """Indices of the boxes that suppression keeps, the best first.

    Args:
        boxes: (N, 4).
        scores: (N,), from 0 on.
        groups: Group of each box, (N,); only boxes of one group suppress each other.
        overlap: Overlap (IoU) from which on they do.
        side: Longest side of the image; boxes of different groups are moved apart by more.
    """
    boxes = boxes + (groups.to(boxes) * (side + 1))[:, None]
    # Graphs of torch take it that two boxes are kept at least. Two more, of the lowest score and apart from all, are
    # the last ones, and make it true.
    corner = (side + 1) * torch.tensor([[-1.0], [-2.0]]).to(boxes)
    boxes = torch.cat([boxes, torch.cat([corner, corner, corner + 1, corner + 1], 1)])
    return torchvision.ops.nms(boxes, torch.cat([scores, torch.full_like(corner[:, 0], -1)]), overlap)[:-2]


def features(extractor: nn.Module, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """The features that mmdet's `SingleRoIExtractor` takes from maps for boxes (N, 4): (N, C, s, s)."""
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    layers = extractor.roi_layers
    levels = extractor.map_roi_levels(rois, len(layers))
    size = layers[0].output_size
    out = rois.new_zeros(rois.shape[0], maps[0].shape[1], *size)
    for level, (layer, x) in enumerate(zip(layers, maps, strict=False)):  # the coarsest map is for proposals alone
        (index,) = (levels == level).nonzero(as_tuple=True)
        pooled = torchvision.ops.roi_align(
            x, rois[index], size, layer.spatial_scale, layer.sampling_ratio, layer.aligned
        )
        out = out.index_copy(0, index, pooled)
    return out


def matches(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], tolerance: float) -> Iterator[tuple[int, int]]:
    """Pairs of detections that are the same, as indices into the first and the second.

    Two are the same if they are of one class, and boxes, scores and masks differ by no more than a share of the largest
    ones. The order may differ, since rounding decides it where scores are nearly equal.

    Args:
        found, expected: Boxes (N, 4), scores (N,), labels (N,) and, where there are masks, these (N, s, s).
        tolerance: Largest share.
    """
    scales = [max(float(np.abs(x).max(initial=0)), 1e-30) for x in expected]
    scales[2] = 1e-30  # labels have to be equal
    free = np.ones(len(found[0]), bool)
    for i, one in enumerate(zip(*expected, strict=True)):
        pairs = zip(found, one, scales, strict=True)
        errors = [np.abs(many - each).max(tuple(range(1, many.ndim)), initial=0) / scale for many, each, scale in pairs]
        error = np.where(free, np.max(errors, 0), np.inf)
        best = int(error.argmin()) if error.size else -1
        if best >= 0 and error[best] <= tolerance:
            free[best] = False
            yield best, i


def paste_masks(masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float = 0.5) -> np.ndarray:
    """The masks of detections as masks of the image, (N, H, W), bool.

    Args:
        masks: Probabilities over the boxes, (N, s, s), as an exported Mask R-CNN returns them.
        boxes: x1, y1, x2, y2 in pixels of the image, (N, 4).
        size: Height and width of the image.
        threshold: Probability from which on a pixel is of the object.
    """
    pasted = np.zeros((len(masks), *size), bool)
    for target, (part, values) in zip(pasted, placed(masks, boxes, size), strict=True):
        target[part] = values >= threshold
    return pasted


def placed(
    masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int]
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """The rows and columns of the image around the box of each mask, and the probabilities of these pixels.

    Args:
        masks, boxes, size: See `paste_masks`.
    """
    for mask, box in zip(torch.from_numpy(masks), torch.from_numpy(boxes), strict=True):
        ends = torch.tensor(size[::-1])
        corners = torch.stack([box[:2].floor() - 1, box[2:].ceil() + 1]).clamp(0).minimum(ends)
        columns, rows = (slice(*sides) for sides in corners.int().T.tolist())
        # Centres of the pixels, from -1 to 1 over the box; mmdet takes 0 for a box without a width or a height.
        y = (torch.arange(rows.start, rows.stop) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
        x = (torch.arange(columns.start, columns.stop) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
        x, y = (torch.where(places.isinf(), 0.0, places) for places in (x, y))
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], -1)
        yield (rows, columns), F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0].numpy()


@torch.inference_mode()
def predicted(model: nn.Module, image: Tensor, threshold: float) -> list[np.ndarray]:
    """The detections that mmdet's `predict` finds in an image.

    Args:
        model: Detector that `check_detector` has passed.
        image: (1, 3, H, W), prepared.
        threshold: Score that detections exceed.

    Returns:
        Boxes (N, 4), scores (N,), labels (N,) and, if there is a mask head, the probability of each pixel (N, H, W), in
        255 steps.
    """
    from mmdet.structures import DetDataSample

    size, head = tuple(image.shape[2:]), model.roi_head
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0)))
    kept = head.test_cfg
    head.test_cfg = type(kept)({**kept, 'score_thr': threshold, 'mask_thr_binary': -1})  # below 0: probabilities
    try:
        padded = pad_to_multiple(image, model.data_preprocessor.pad_size_divisor)
        found = model.predict(padded, [sample], rescale=False)[0].pred_instances
    finally:
        head.test_cfg = kept
    names = ('bboxes', 'scores', 'labels', *(('masks',) if head.with_mask else ()))
    return [found[name].numpy() for name in names]
