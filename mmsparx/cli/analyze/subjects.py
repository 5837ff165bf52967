"""Images as a model's test pipeline gives them, and the scores of classes in them, for any task."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from torch import Tensor

from mmsparx.cli.images import read_image
from mmsparx.cli.named_model import NamedModel
from mmsparx.cli.preprocessing import test_pipeline


@dataclass
class Subject:
    """An image as a model gets it.

    Attributes:
        x: Input, (1, 3, H, W), on the model's device.
        samples: Data samples of a config's model; None of a model of timm's.
        image: Input without padding, as an image: (h, w, 3), RGB, 8 bits.
    """

    x: Tensor
    samples: list | None
    image: np.ndarray


@dataclass
class Score:
    """A class in an image.

    Attributes:
        label: Index of the class.
        text: Name and value of the score, for titles.
        function: Function of the input that gives the score as a tensor without axes, through which gradients go.
    """

    label: int
    text: str
    function: Callable[[Tensor], Tensor]


def prepare(model: NamedModel, path: Path) -> Subject | None:
    """Read an image and prepare it by the model's test pipeline.

    Returns:
        The image; None where OpenCV cannot resize it as the pipeline asks, as of one that becomes 0 pixels high.

    Raises:
        ValueError: The config has no such pipeline.
    """
    device = next(model.module.parameters()).device
    if model.config is None:
        x = model.preprocessing(read_image(path)).unsqueeze(0)
        return Subject(x.to(device), None, model.preprocessing.shown(x[0]))
    with model.scope():
        try:
            packed = Compose(test_pipeline(model.config))({'img_path': str(path), 'img_id': 0})
        except cv2.error:
            return None
        data = model.module.data_preprocessor(pseudo_collate([packed]), False)
    x, samples = data['inputs'], data['data_samples']
    height, width = samples[0].metainfo.get('img_shape', x.shape[2:])[:2]
    return Subject(x.to(device), samples, model.preprocessing.shown(x[0])[:height, :width])


def class_index(model: NamedModel, name: str) -> int:
    """The class of a name, or of a number from 0.

    Raises:
        ValueError: The model has no such class.
    """
    classes = model.classes or ()
    if name in classes:
        return classes.index(name)
    if name.isdecimal() and (not classes or int(name) < len(classes)):
        return int(name)
    near = difflib.get_close_matches(name, classes)
    known = f'it has {len(classes)} classes' if classes else 'its classes have no names'
    hint = f'; nearest: {", ".join(near)}' if near else ''
    raise ValueError(f'--class: {model.label} has no class {name!r}; {known}, which count from 0{hint}')


def class_name(model: NamedModel, label: int) -> str:
    """The name of a class, its number where names are not known."""
    known = model.classes is not None and label < len(model.classes)
    return model.classes[label] if known else f'class {label}'


def score_of(model: NamedModel, subject: Subject, label: int | None, threshold: float) -> Score | None:
    """The score of a class in an image, or of the class that the model sees.

    - A classifier's score is the logit of the class, by default of the best.
    - A segmenter's is the sum of the class's logits over the pixels that are predicted to be of it, by default of the
      class of most pixels. The whole image is looked at once, also where the config tests in windows.
    - A detector's is the sum of the scores of the detections of the class, by default of that of the best detection.
      The gradient goes from the scores through the features of each region to the image; where the regions lie, and
      which of them are detections, is taken as given.

    Args:
        model: Model of any task.
        subject: Image.
        label: Class; None for the one that the model sees.
        threshold: Score that detections have to exceed.

    Returns:
        The score; None where the model sees nothing of the class.

    Raises:
        ValueError: The config is of a library that is not known, or the model has no such class.
    """
    if model.library not in _TASKS:
        raise ValueError(
            f'{model.label}: expected default_scope to be one of {", ".join(_TASKS)}, got {model.library!r}'
        )
    with model.scope():
        return _TASKS[model.library](model, subject, label, threshold)


def _check(model: NamedModel, label: int | None, count: int) -> None:
    if label is not None and label >= count:
        raise ValueError(f'--class: {model.label} has classes 0 to {count - 1}, got {label}')


def _classifier(model: NamedModel, subject: Subject, label: int | None, _: float) -> Score:
    with torch.no_grad():
        logits = model.module(subject.x)[0]
    _check(model, label, len(logits))
    chosen = logits.argmax().item() if label is None else label
    probability = logits.softmax(0)[chosen].item()
    return Score(chosen, f'probability {probability:.2g}', lambda x: model.module(x)[0, chosen])


def _segmenter(model: NamedModel, subject: Subject, label: int | None, _: float) -> Score | None:
    metas = [sample.metainfo for sample in subject.samples]

    def logits(x: Tensor) -> Tensor:
        return model.module.encode_decode(x, metas)[0]

    with torch.no_grad():
        found = logits(subject.x)
    _check(model, label, len(found))
    labels = found.argmax(0)
    height, width = subject.image.shape[:2]
    seen = labels[:height, :width]  # without padding
    chosen = seen.flatten().mode().values.item() if label is None else label
    pixels = (labels == chosen).float()
    if not (seen == chosen).any():
        return None
    share = (seen == chosen).float().mean().item()
    return Score(chosen, f'{share:.0%} of the image', lambda x: (logits(x)[chosen] * pixels).sum())


def _detector(model: NamedModel, subject: Subject, label: int | None, threshold: float) -> Score | None:
    if getattr(model.module, 'with_mask', False) and hasattr(model.module, 'roi_head'):
        model.module.roi_head.mask_head = None  # it comes after the scores, and takes most of the time
    _check(model, label, len(model.classes) if model.classes else 1 << 30)

    def detections(x: Tensor):
        return model.module(x, subject.samples, mode='predict')[0].pred_instances

    def scores(x: Tensor, chosen: int) -> Tensor:
        found = detections(x)
        return found.scores[(found.labels == chosen) & (found.scores > threshold)]

    with torch.no_grad():
        found = detections(subject.x)
        if label is None:
            if not (found.scores > threshold).any():
                return None
            label = found.labels[found.scores.argmax()].item()
        of_class = scores(subject.x, label)
    if not len(of_class):
        return None
    text = f'{len(of_class)} detection{"" if len(of_class) == 1 else "s"}, best {of_class.max():.2f}'
    return Score(label, text, lambda x: scores(x, label).sum())


_TASKS = {'timm': _classifier, 'mmpretrain': _classifier, 'mmseg': _segmenter, 'mmdet': _detector}
