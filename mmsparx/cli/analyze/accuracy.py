"""Accuracy of a classifier on folders of classes, by mmpretrain's pipeline and metric."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import torch
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmpretrain.datasets import CustomDataset
from mmpretrain.evaluation import Accuracy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import mmsparx.datasets  # noqa: F401  (registers the transform that reads images)
from mmsparx.cli.named_model import NamedModel
from mmsparx.cli.progress import shown

# Crop ratios that recipes name. Sides are rounded down, so that a pipeline has a little more.
_RATIOS = tuple(Fraction(text) for text in ('0.875', '0.9', '0.95', '1'))
_OF_OTHERS = Fraction('0.875')


@dataclass(frozen=True)
class Accuracies:
    """Measured accuracies.

    Attributes:
        top1, top5: Accuracies in per cent; top5 is None with fewer than five classes.
        count: Number of images.
        unreadable: Files that cannot be read, by their paths in the folder; they are not counted.
    """

    top1: float
    top5: float | None
    count: int
    unreadable: tuple[str, ...] = field(default_factory=tuple)


def crop_ratio(model: NamedModel) -> Fraction:
    """Crop ratio of a model's tests: of this package's networks as their configs have it, 0.875 of others."""
    if model.backbone is None:
        return _OF_OTHERS
    given, side = model.preprocessing.crop_ratio, min(model.preprocessing.size or (224,))
    resized = math.floor(side / given)
    nearest = sorted(_RATIOS, key=lambda ratio: abs(ratio - given))
    return next((ratio for ratio in nearest if math.floor(side / ratio) == resized), given)


class ClassFolders(Dataset):
    """Images of folders of classes as mmpretrain prepares them, or the path in `root` of one that cannot be read.

    Args:
        root: Folder with a folder of images for each class, as `val` of ImageNet.
        size: Side of the images.
        ratio: Crop ratio: the short side is resized to floor(size / ratio), bicubic, and the centre is cropped.

    Raises:
        ValueError: No folder of a class holds an image.
    """

    def __init__(self, root: str | Path, size: int, ratio: Fraction) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FileNotFoundError(f'--data: no folder {root}')
        names = sorted(path.name for path in root.iterdir() if path.is_dir())
        if not any(path.is_file() for name in names for path in (root / name).rglob('*')):
            raise ValueError(
                f'--data: expected a folder with a folder of images for each class, as val of ImageNet, got {root}'
            )
        steps = [
            dict(type='mmsparx.LoadImageFromFile'),
            dict(
                type='ResizeEdge',
                scale=math.floor(size / ratio),
                edge='short',
                backend='pillow',
                interpolation='bicubic',
            ),
            dict(type='CenterCrop', crop_size=size),
            dict(type='PackInputs'),
        ]
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            self._pipeline = Compose(steps)
            self._files = CustomDataset(data_root=str(root), test_mode=True)
        self.root = root
        self.classes = len(names)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> tuple[Tensor, int] | str:
        info = self._files.get_data_info(i)
        try:
            packed = self._pipeline(info)
        except (OSError, cv2.error, MemoryError):  # a file that cannot be read, or has no side to resize
            return os.path.relpath(info['img_path'], self.root)
        return packed['inputs'], int(packed['data_samples'].gt_label)


def measure(model: NamedModel, data: ClassFolders, batch_size: int, workers: int, text: str) -> Accuracies:
    """Accuracy of a classifier.

    Args:
        model: Model, whose outputs are scores of classes in the order of the sorted folders.
        data: Images.
        batch_size: Images at once.
        workers: Processes that read images.
        text: Label of the progress bar.

    Raises:
        ValueError: The model does not give a score for each of the folders, or no image can be read.
    """
    device = next(model.module.parameters()).device
    count, unreadable = 0, []
    metric: Accuracy | None = None
    loader = DataLoader(data, batch_size, num_workers=workers, collate_fn=list)
    for batch in shown(loader, text):
        unreadable += [item for item in batch if isinstance(item, str)]
        items = [item for item in batch if not isinstance(item, str)]
        if not items:
            continue
        images = torch.stack([prepared(model, image) for image, _ in items]).to(device)
        scores = classify(model.module, images, data.classes, model.label)
        if metric is None:
            metric = Accuracy(topk=(1, 5) if data.classes >= 5 else (1,))
        count += len(items)
        samples = [
            {'pred_score': score, 'gt_label': torch.tensor([label])}
            for score, (_, label) in zip(scores.cpu(), items, strict=True)
        ]
        metric.process(None, samples)
    if metric is None:
        raise ValueError(f'--data: none of the {len(unreadable)} images can be read, such as {unreadable[0]}')
    values = metric.evaluate(count)
    return Accuracies(values['accuracy/top1'], values.get('accuracy/top5'), count, tuple(unreadable))


def prepared(model: NamedModel, image: Tensor) -> Tensor:
    """(3, H, W) BGR from 0 to 255, as mmpretrain packs images -> a model's input."""
    return model.preprocessing.normalise(image.flip(0).permute(1, 2, 0).numpy())


def check_classifier(model: NamedModel, classes: int) -> None:
    """Fail, before images are read, where a model does not give a score for each class.

    Raises:
        ValueError: It does not.
    """
    if model.library not in ('timm', 'mmpretrain'):
        raise ValueError(f'{model.label}: expected a classifier for --data, got a model of {model.library}')
    height, width = model.preprocessing.size or (224, 224)
    parameter = next(model.module.parameters())
    classify(model.module, parameter.new_zeros(1, 3, height, width), classes, model.label)


@torch.inference_mode()
def classify(module: nn.Module, images: Tensor, classes: int, label: str) -> Tensor:
    """Probabilities of the classes, (B, classes).

    Raises:
        ValueError: The model gives something else.
    """
    scores = module(images)
    if isinstance(scores, Sequence) and len(scores) == 1:
        (scores,) = scores
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        raise ValueError(f'{label}: expected a classifier, whose output is a score for each class')
    if scores.shape[1] != classes:
        raise ValueError(f'{label} has {scores.shape[1]} classes, and --data has {classes} folders of classes')
    return scores.softmax(1)
