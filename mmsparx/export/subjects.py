"""The exported part of a model, from an image to the outputs that a user of the file needs."""

from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsparx.export import checks, detection
from mmsparx.models.backbones import SparXNet

CLASSIFICATION, FEATURES, SEGMENTATION, DETECTION = TASKS = ('classification', 'features', 'segmentation', 'detection')


_CANDIDATES = 300  # boxes of an image, before suppression, that detectors are compared by


class Subject(nn.Module):
    """A module from a prepared image (B, 3, H, W) to a tuple of tensors.

    Attributes:
        task: One of `TASKS`.
        outputs: Names of the outputs.
        open_axes: Axes of the image whose sizes can be open: batch, height, width.
    """

    task: str
    open_axes: tuple[int, ...] = (0, 2, 3)

    def __init__(self, model: nn.Module, outputs: tuple[str, ...]):
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def settings(self, images: Sequence[np.ndarray]) -> list[dict[str, Tensor]]:
        """Values of buffers that the file is compared with, one set after the other; the file keeps the last.

        Args:
            images: Images, (B, 3, H, W) each, that it is compared by.
        """
        return [{}]

    def check(self, images: Sequence[np.ndarray]) -> None:
        """Fail where the model's library computes other outputs for these images, if it takes steps of its own."""

    def compare(
        self, found: Sequence[np.ndarray], expected: Sequence[np.ndarray], tolerance: float = checks.TOLERANCE
    ) -> checks.Difference:
        """Compare the outputs of a file with those of a model; detections that differ by more are not the same."""
        return checks.Difference(checks.largest_error(found, expected))


class Classifier(Subject):
    """A classifier: logits (B, classes)."""

    task = CLASSIFICATION

    def __init__(self, model: nn.Module, options: Mapping | None = None):
        super().__init__(model, ('logits',))
        self.options = dict(options or {})

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.model(image, **self.options),)


class Features(Subject):
    """A backbone: a map (B, C, h, w) for each stage that it returns."""

    task = FEATURES

    def __init__(self, model: SparXNet):
        super().__init__(model, tuple(f'stage{i + 1}' for i in model.out_indices))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(image))


class Segmenter(Subject):
    """A segmenter of mmseg: logits (B, classes, H, W), at the size of the image."""

    task = SEGMENTATION

    def __init__(self, model: nn.Module):
        super().__init__(model, ('logits',))
        model.auxiliary_head = None  # of training alone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits = self.model.decode_head(self.model.extract_feat(image))
        size = image.shape[2:]
        return (F.interpolate(logits, size, mode='bilinear', align_corners=self.model.decode_head.align_corners),)


class Detector(Subject):
    """A two-stage detector of mmdet: boxes, scores and labels of the detections of one image, masks if it has them."""

    task = DETECTION
    open_axes = (2, 3)

    def __init__(self, model: nn.Module):
        detection.check_detector(model)
        masks = ('masks',) if model.roi_head.with_mask else ()
        super().__init__(model, ('boxes', 'scores', 'labels', *masks))
        self.detections = detection.Detections(model)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.detections(image)

    @torch.inference_mode()
    def settings(self, images: Sequence[np.ndarray]) -> list[dict[str, Tensor]]:
        """A score that some boxes of each image exceed, though these show nothing; then the detector's own score."""
        own, lower = self.detections.threshold.clone(), []
        for image in images:
            scores = self.detections.candidates(torch.from_numpy(image))[2].flatten()
            if scores.numel():
                lower.append(scores.topk(min(_CANDIDATES, -(-scores.numel() // 2))).values[-1])
        return [{'detections.threshold': value} for value in (torch.stack([own, *lower]).min(), own)]

    def check(self, images: Sequence[np.ndarray]) -> None:
        """Fail where mmdet's `predict` finds other detections, since it takes its steps in functions of its own.

        Raises:
            DisagreementError: Boxes, scores, labels or masks differ.
        """
        threshold = float(self.detections.threshold)
        for image in images:
            found = checks.run_torch(self, image)
            expected = detection.predicted(self.model, torch.from_numpy(image), threshold)
            if self.compare(found[:3], expected[:3]).error > checks.TOLERANCE:
                _differ('boxes, scores or labels', image)
            if len(found) > 3:
                masks = list(detection.placed(found[3], found[0], image.shape[2:]))
                other, of_object = 0, 0
                for i, j in detection.matches(found[:3], expected[:3], checks.TOLERANCE):
                    part, values = masks[i]
                    other += int((np.abs(values * 255 - expected[3][j][part]) > 2).sum())
                    of_object += int((expected[3][j] > 0).sum())
                if other > of_object // 100:
                    _differ('masks', image)

    def compare(
        self, found: Sequence[np.ndarray], expected: Sequence[np.ndarray], tolerance: float = checks.TOLERANCE
    ) -> checks.Difference:
        """Compare detections in any order.

        Rounding decides some suppressions and the last places. Up to a tenth of the detections may differ by that.
        """
        pairs = list(detection.matches(found, expected, tolerance))
        number = max(len(expected[0]), len(found[0]))
        single = number - len(pairs)
        if single > number // 10:
            return checks.Difference(float('inf'), single)
        if not pairs:
            return checks.Difference(0.0)
        rows = [list(row) for row in zip(*pairs, strict=True)]
        same = [[output[row] for output in outputs] for outputs, row in zip((found, expected), rows, strict=True)]
        return checks.Difference(checks.largest_error(*same), single)


def _differ(outputs: str, image: np.ndarray) -> NoReturn:
    raise checks.DisagreementError(
        f"export: the {outputs} are not those of mmdet's predict for an image of {image.shape}; nothing was written. "
        'Expected a Faster R-CNN or Mask R-CNN with the standard test; a part of this one has another option or method'
    )


def subject_of(model: nn.Module) -> Subject:
    """The part of a model that is exported.

    Args:
        model: Copy of a network of this package, a `SparXClassifier`, a model of timm's, or one of mmpretrain's,
            mmseg's or mmdet's over a network of this package. It is changed.

    Raises:
        ValueError: A model of another kind.
    """
    library = type(model).__module__.partition('.')[0]
    if isinstance(model, SparXNet):
        return Features(model)
    if library == 'mmpretrain':
        return Classifier(model, {'mode': 'tensor'})
    if library == 'mmseg':
        if not hasattr(model, 'decode_head') or isinstance(model.decode_head, nn.ModuleList):
            raise ValueError(f'export: expected a segmenter with one decode head, got {type(model).__name__}')
        return Segmenter(model)
    if library == 'mmdet':
        return Detector(model)
    if library in ('mmsparx', 'timm'):
        return Classifier(model)
    raise ValueError(
        'export: expected a network of mmsparx, or a model of mmpretrain, mmseg, mmdet or timm over one, got '
        f'{type(model).__module__}.{type(model).__name__}'
    )
