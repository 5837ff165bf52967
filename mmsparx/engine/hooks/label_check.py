"""Classes and labels that fit a model's heads, or an error."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from mmengine.dataset import BaseDataset
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmsparx.engine.common import samples
from mmsparx.registry import HOOKS


class Limits(NamedTuple):
    """Labels that a head takes: those below a number of classes, and one that it ignores."""

    name: str
    classes: int
    ignored: int | None


@HOOKS.register_module()
class LabelCheckHook(Hook):
    """Compare classes of datasets, label maps and labels with the heads of a model, before these see them.

    The libraries do not. A head of more classes than the dataset learns, in silence, that some never occur; one of
    fewer, or a label that is no class, fails inside the loss without the name of its file, and on a GPU with an error
    of whatever runs next. Where IoU is measured such labels are left out in silence.

    For models of mmdet, mmseg and mmpretrain; where a dataset names no classes, or a model has no head that does, that
    part is left out. Of label maps and of classifiers' labels, a warning names the classes that never occur: of a
    validation or a test at its end, of a training once every image has been seen.

    Args:
        spare_classes: Whether heads may have more classes than the dataset.

    Raises:
        ValueError: From the runner. At the start, a head, a loss or the preprocessor of a classifier has another number
            of classes than a dataset, class weights have another length, padding is a label, or a palette holds
            what is no colour; in an iteration, a label map is not one label per pixel, or holds a label that is
            neither a class nor ignored.
    """

    priority = 'VERY_HIGH'

    def __init__(self, spare_classes: bool = False) -> None:
        self.spare_classes = spare_classes
        self._iterations: Counter[str] = Counter()
        self._seen: dict[str, Tensor] = {}  # number of occurrences of each label
        self._reported: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        self._start(runner, runner.train_loop, runner.val_loop)
        _check_padding(runner.model, self._limits['gt_sem_seg'])

    def before_val(self, runner: Runner) -> None:
        self._start(runner, runner.val_loop)

    def before_test(self, runner: Runner) -> None:
        self._start(runner, runner.test_loop)

    def _start(self, runner: Runner, *loops: BaseLoop | None) -> None:
        heads = dict(_heads(runner.model))
        for loop in filter(None, loops):
            _check_dataset(loop.dataloader.dataset, heads, self.spare_classes)
        for name, head in heads.items():
            _check_weights(name, head)
        self._limits = {
            'gt_sem_seg': [Limits(name, head.num_classes, head.ignore_index) for name, head in _of(heads, 'mmseg')],
            'gt_label': [Limits(name, head.num_classes, None) for name, head in _of(heads, 'mmpretrain')],
        }

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch=None, mode: str = 'train') -> None:
        for sample in samples(data_batch):
            for kind, limits in self._limits.items():
                if limits and kind in sample:
                    counts = _count_labels(sample, kind, limits)
                    if mode not in self._reported:
                        self._seen[mode] = self._seen.get(mode, 0) + counts
        self._iterations[mode] += 1

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        loader = runner.train_loop.dataloader
        batch = getattr(loader, 'batch_size', None) or 1
        if self._iterations['train'] * batch * get_world_size() >= len(loader.dataset):
            self._report('train', loader.dataset)

    def after_train(self, runner: Runner) -> None:
        self._report('train', runner.train_loop.dataloader.dataset)

    def after_val_epoch(self, runner: Runner, metrics=None) -> None:
        self._report('val', runner.val_loop.dataloader.dataset)

    def after_test_epoch(self, runner: Runner, metrics=None) -> None:
        self._report('test', runner.test_loop.dataloader.dataset)

    def _report(self, mode: str, dataset: BaseDataset) -> None:
        """Name the classes that no process has seen, once."""
        limits = [head for heads in self._limits.values() for head in heads]
        if mode in self._reported or not limits:
            return
        self._reported.add(mode)
        seen = self._seen.pop(mode, torch.zeros(_size(limits), dtype=torch.int64))
        all_reduce(seen)
        if not seen.any():  # a test without labels
            return
        classes = _metainfo(dataset).get('classes') or ()
        missing = [f'{name!r} ({label})' for label, name in enumerate(classes) if not seen[label]]
        if missing:
            some = ', '.join(missing[:5]) + (f' and {len(missing) - 5} more' if len(missing) > 5 else '')
            print_log(
                f'{mode}: of {len(classes)} classes {len(missing)} occur in no label: {some}. If that is not meant: '
                'labels are the indices of classes, so that a map of two classes holds 0 and 1 and not 0 and 255; and '
                'reduce_zero_label=True is for maps whose first class is 1',
                logger='current',
                level=logging.WARNING,
            )


def _heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts with as many classes as the dataset, by name: heads, losses, and a preprocessor that mixes labels."""
    if any(hasattr(part, 'language_model') for part in model.modules()):
        return  # classes are words there, and num_classes is their largest number
    for name, part in model.named_modules():
        count = getattr(part, 'num_classes', None)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            continue
        if hasattr(part, 'backbone'):  # mmseg's models have their head's
            continue
        # Backbones keep their library's default; the regions of an RPN and the pixels of an auxiliary task of mmdet
        # have classes of their own.
        if {'backbone', 'neck', 'rpn_head', 'semantic_head'} & set(name.split('.')):
            continue
        if getattr(part, 'class_agnostic', False) or not getattr(part, 'to_onehot', True):
            continue
        yield name, part


def _check_dataset(dataset: BaseDataset, heads: Mapping[str, nn.Module], spare_classes: bool) -> None:
    kind, metainfo = type(dataset).__name__, _metainfo(dataset)
    classes = metainfo.get('classes') or ()
    if isinstance(classes, str):
        raise ValueError(
            f"{kind}: expected a tuple of names in metainfo.classes, got {classes!r}. Write ('cat',) with a comma, "
            'also for a single class'
        )
    panoptic = 'thing_classes' in metainfo  # each head has some of the classes
    for name, head in heads.items():
        fits = head.num_classes == len(classes) or (spare_classes and head.num_classes > len(classes))
        if classes and not panoptic and not fits:
            raise ValueError(
                f'{kind} has {len(classes)} classes, but {name} has {head.num_classes}. Set num_classes of each of the '
                "model's heads, and of data_preprocessor where labels are mixed, to the number of classes, or "
                'metainfo=dict(classes=...) of the dataset to as many names'
            )
    for colour in metainfo.get('palette') or ():
        if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
            raise ValueError(f'palette of {kind}: expected three numbers from 0 to 255 for each class, got {colour}')


def _check_weights(name: str, head: nn.Module) -> None:
    """Weights of the classes in the losses of a head: one for each, and one for the background where there is one."""
    for key, loss in head.named_modules():
        weights = getattr(loss, 'class_weight', None)
        if not isinstance(weights, Sequence | Tensor) or isinstance(weights, str):
            continue
        outputs = [head.num_classes]
        if _is_of(head, 'mmdet') and not getattr(loss, 'use_sigmoid', False):
            outputs = [getattr(head, 'cls_out_channels', head.num_classes + 1)]
        if getattr(head, 'cls_embed', None) is not None:  # mask classification has one for no object, too
            outputs = [head.num_classes + 1]
        if len(weights) not in outputs:
            raise ValueError(
                f'{".".join(filter(None, (name, key)))}: expected class_weight of {outputs[0]} numbers, got '
                f'{len(weights)}. Give one for each of the {head.num_classes} classes'
                f'{", and one for the background" if outputs[0] > head.num_classes else ""}'
            )


def _of(heads: Mapping[str, nn.Module], library: str) -> Iterator[tuple[str, nn.Module]]:
    """The heads of a library, or derived from its own."""
    for name, head in heads.items():
        if _is_of(head, library) and (library != 'mmseg' or hasattr(head, 'ignore_index')):
            yield name, head


def _is_of(part: nn.Module, library: str) -> bool:
    return any(cls.__module__.startswith(f'{library}.') for cls in type(part).__mro__)


def _metainfo(dataset: object) -> Mapping:
    return getattr(dataset, 'metainfo', {})


def _check_padding(model: nn.Module, limits: list[Limits]) -> None:
    """Check that the losses ignore the padding of label maps."""
    for part in model.modules():
        value = getattr(part, 'seg_pad_val', None)
        if value is None or not (getattr(part, 'size', None) or getattr(part, 'size_divisor', None)):
            continue
        for head in limits:
            if value != head.ignored:
                raise ValueError(
                    f'data_preprocessor pads label maps with {value} (seg_pad_val), but {head.name} ignores '
                    f'{head.ignored}, so that padding would be learned. Set seg_pad_val and ignore_index of all heads '
                    'to one value'
                )


def _size(limits: list[Limits]) -> int:
    """Number of labels that are counted: those of a byte, and all classes."""
    return max(256, *(head.classes for head in limits))


def _count_labels(sample: BaseDataElement, kind: str, limits: list[Limits]) -> Tensor:
    """Number of occurrences of each label, from 0 on; a label that is not a class is an error."""
    labels, path = sample.get(kind), sample.metainfo.get('img_path')
    if kind == 'gt_sem_seg':
        labels, path = labels.data, sample.metainfo.get('seg_map_path')
        if len(labels) != 1:
            raise ValueError(
                f'{path}: expected one label per pixel, got an array of shape {tuple(labels.shape)}. If it holds '
                "colours, write each class's index instead, into a PNG of one channel"
            )
    size = _size(limits)
    usual = (labels >= 0) & (labels < size)
    counts = torch.bincount(labels[usual].flatten().long(), minlength=size).cpu()
    found = [*labels[~usual].unique().tolist(), *counts.nonzero().flatten().tolist()]
    for head in limits:
        if wrong := [label for label in found if not 0 <= label < head.classes and label != head.ignored]:
            ignored = '' if head.ignored is None else f', or {head.ignored} for what is ignored'
            shifted = sample.metainfo.get('reduce_zero_label')
            raise ValueError(
                f'{path}: no class has the labels {wrong}. Expected 0 to {head.classes - 1}{ignored}, by {head.name}'
                f'{"; labels in the file are higher by 1 (reduce_zero_label)" if shifted else ""}. Correct the file, '
                'or raise num_classes of the heads and the classes of the dataset'
            )
    return counts
