"""What of a model is exported: the part from an image to the outputs that a user of the file needs."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from mmsparx.models.backbones import SparXNet

CLASSIFICATION, FEATURES, SEGMENTATION = TASKS = ('classification', 'features', 'segmentation')


class Subject(nn.Module):
    """From an image (B, 3, H, W), prepared, to a tuple of tensors.

    Attributes:
        task: One of `TASKS`.
        outputs: Names of the outputs.
    """

    task: str

    def __init__(self, model: nn.Module, outputs: tuple[str, ...]):
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError


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


def subject_of(model: nn.Module) -> Subject:
    """The part of a model that is exported.

    Args:
        model: Copy of a network of this package, a `SparXClassifier`, a model of timm's, or one of mmpretrain's
            or mmseg's over a network of this package. It is changed.

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
    if library in ('mmsparx', 'timm'):
        return Classifier(model)
    raise ValueError(
        'export: expected a network of mmsparx, or a model of mmpretrain, mmseg or timm over one, got '
        f'{type(model).__module__}.{type(model).__name__}'
    )
