"""Classes and label maps that fit a segmenter's heads, or an error."""

from collections.abc import Mapping

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from mmengine.structures import BaseDataElement
from torch import nn

from mmsparx.engine.common import samples
from mmsparx.registry import HOOKS


@HOOKS.register_module()
class LabelCheckHook(Hook):
    """Compare datasets and label maps with the heads of an mmseg model, before these see them.

    mmseg does not. A label that is no class fails inside the loss, without the name of its file, and on a GPU with an
    error of whatever runs next; where IoU is measured it is left out in silence, as are predictions of classes
    that the dataset does not have.

    Raises:
        ValueError: from the runner. At the start, the model has no such head, a head has another number of classes
            than a dataset, or a palette holds what is no colour; in an iteration, a label map is not one label per
            pixel, or holds a label that is neither a class nor ignored.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        self._start(runner, runner.train_loop, runner.val_loop)

    def before_val(self, runner: Runner) -> None:
        self._start(runner, runner.val_loop)

    def before_test(self, runner: Runner) -> None:
        self._start(runner, runner.test_loop)

    def _start(self, runner: Runner, *loops: BaseLoop | None) -> None:
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead

        heads = {name: part for name, part in runner.model.named_modules() if isinstance(part, BaseDecodeHead)}
        if not heads:
            raise ValueError(
                "LabelCheckHook: the model has no decode head of mmseg's. Leave the hook out of the config"
            )
        for loop in filter(None, loops):
            _check_dataset(loop.dataloader.dataset, heads)
        self._head = next(iter(heads.values()))

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch=None, mode: str = 'train') -> None:
        for sample in samples(data_batch):
            _check_labels(sample, self._head)


def _check_dataset(dataset: BaseDataset, heads: Mapping[str, nn.Module]) -> None:
    kind, classes = type(dataset).__name__, dataset.metainfo.get('classes') or ()
    for name, head in heads.items():
        if classes and head.num_classes != len(classes):
            raise ValueError(
                f'{kind} has {len(classes)} classes, but {name} has {head.num_classes}. Set num_classes of each of the '
                "model's heads to the number of classes, or metainfo=dict(classes=...) of the dataset to fewer of them"
            )
    for colour in dataset.metainfo.get('palette') or ():
        if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
            raise ValueError(f'palette of {kind}: expected three numbers from 0 to 255 for each class, got {colour}')


def _check_labels(sample: BaseDataElement, head: nn.Module) -> None:
    if 'gt_sem_seg' not in sample:
        return
    labels, path = sample.gt_sem_seg.data, sample.metainfo.get('seg_map_path')
    if len(labels) != 1:
        raise ValueError(
            f'{path}: expected one label per pixel, got an array of shape {tuple(labels.shape)}. If it holds colours, '
            "write each class's index instead, into a PNG of one channel"
        )
    out_of_range = ((labels < 0) | (labels >= head.num_classes)) & (labels != head.ignore_index)
    if out_of_range.any():
        shifted = sample.metainfo.get('reduce_zero_label')
        raise ValueError(
            f'{path}: no class has the labels {labels[out_of_range].unique().tolist()}. Expected 0 to '
            f'{head.num_classes - 1}, or {head.ignore_index} for what is ignored'
            f'{"; labels in the file are higher by 1 (reduce_zero_label)" if shifted else ""}. Correct the file, or '
            'raise num_classes of the heads and the classes of the dataset'
        )
