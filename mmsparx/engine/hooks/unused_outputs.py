"""Outputs of a backbone that nothing reads, named before the first iteration."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmsparx.models import SparXNet
from mmsparx.registry import HOOKS

UNUSED_OUTPUTS = r'mmsparx\.([\w.]+\.)?UnusedOutputsHook'  # its names in configs


class Reader(NamedTuple):
    """A part of a model that reads the outputs of a backbone.

    Attributes:
        name: Name for a message.
        outputs: Positions of the outputs that it reads, within `out_indices`.
        settings: Settings to change beside the backbone's `out_indices`.
    """

    name: str
    outputs: set[int]
    settings: str


@HOOKS.register_module()
class UnusedOutputsHook(Hook):
    """Refuse a run of several processes in which outputs of the backbone get no gradient; warn in other runs.

    Each output of a `SparXNet` has a norm. Where a neck or a head leaves an output out, as the FPN of mmdet's RetinaNet
    does with `start_level=1`, that norm gets no gradient, and DistributedDataParallel fails in the second iteration
    with a message that names no setting.

    The outputs that are read are known of necks with a `start_level`, of mmseg's heads by their `in_index`, and of
    mmpretrain's, which read the last output. Other necks and heads are taken to read all.

    Raises:
        ValueError: An output gets no gradient; raised by the runner before training, with the settings to change.
    """

    def before_train(self, runner: Runner) -> None:
        model = runner.model
        distributed = isinstance(model, DistributedDataParallel)
        if model.find_unused_parameters if distributed else is_model_wrapper(model):  # others need no gradients
            return
        for name, part in (model.module if distributed else model).named_modules():
            backbone = getattr(part, 'backbone', None)
            if not isinstance(backbone, SparXNet) or (reader := _reader(part, len(backbone.out_indices))) is None:
                continue
            stages = tuple(stage for i, stage in enumerate(backbone.out_indices) if i in reader.outputs)
            unused = _unused(backbone, stages)
            if not unused:
                continue
            key = '.'.join(filter(None, ('model', name, 'backbone')))
            channels = [backbone.arch.channels[stage] for stage in stages]
            message = (
                f'{reader.name} reads the outputs of stages {stages} alone, and {key} has out_indices='
                f'{backbone.out_indices}: its {", ".join(unused)} would get no gradient, which ends a run of several '
                f'processes in its second iteration. Set out_indices={stages} of {key}'
                f'{reader.settings.format(channels=channels)}'
            )
            if distributed:
                raise ValueError(f'{message}; or set find_unused_parameters=True, which costs time')
            print_log(message, logger='current', level=logging.WARNING)


def _reader(part: nn.Module, count: int) -> Reader | None:
    """The reader of the `count` outputs of a part's backbone; None if it is not known."""
    neck = getattr(part, 'neck', None)
    if isinstance(neck, (nn.Sequential, nn.ModuleList)) and len(neck):
        neck = neck[0]
    if isinstance(start := getattr(neck, 'start_level', None), int):
        outputs = set(range(count)[start : getattr(neck, 'backbone_end_level', count)])
        kind = type(neck).__name__
        return Reader(f'the neck ({kind})', outputs, ', and in_channels={channels} and start_level=0 of the neck')
    if neck is None and (heads := list(_segmentation_heads(part))):
        indices = [head.in_index if isinstance(head.in_index, Sequence) else [head.in_index] for head in heads]
        outputs = {range(count)[i] for index in indices for i in index}
        return Reader('the heads together', outputs, ', and in_index of each head to the new positions')
    if _is_of(getattr(part, 'head', None), 'mmpretrain', 'ClsHead'):
        return Reader('the head', {count - 1}, '')
    return None


def _segmentation_heads(part: nn.Module) -> Iterator[nn.Module]:
    """Heads of a segmenter; none where one of them does not say what it reads."""
    heads = [getattr(part, name, None) for name in ('decode_head', 'auxiliary_head')]
    heads = [one for head in heads for one in (head if isinstance(head, nn.ModuleList) else [head]) if one is not None]
    return iter(heads if all(hasattr(head, 'in_index') for head in heads) else ())


def _is_of(part: object, library: str, name: str) -> bool:
    """Whether a part is of a library's class, or of one derived from it; the library need not be there."""
    return any(cls.__name__ == name and cls.__module__.startswith(f'{library}.') for cls in type(part).__mro__)


def _unused(backbone: SparXNet, read: Sequence[int]) -> list[str]:
    """The parts of a backbone with trained parameters that do not contribute to the outputs of some stages."""
    parts = {f'out_norms.{stage}': norm for stage, norm in backbone.out_norms.items() if int(stage) not in read}
    parts |= {f'stages.{i}': stage for i, stage in enumerate(backbone.stages) if i > max(read, default=-1)}
    return [name for name, part in parts.items() if any(p.requires_grad for p in part.parameters())]
