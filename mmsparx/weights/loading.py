"""Loading weights into a model: strictly, safely, with a report."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from fnmatch import fnmatchcase

import torch
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from mmsparx.weights.causes import Mismatch, Options
from mmsparx.weights.contents import read_weights, strip_wrappers
from mmsparx.weights.names import NameMap, is_published_of
from mmsparx.weights.networks import LEARNABLE_SCALE
from mmsparx.weights.report import LoadReport, shorten

# A published checkpoint of another task lacks these: the output norms of dense prediction, and the detectors' learnable
# attention scale. Both keep their initial values.
_MAY_MISS = re.compile(rf'out_norms\.|{LEARNABLE_SCALE.pattern}')
# Parameters that a classification checkpoint has and a backbone does not.
_HEAD = re.compile(r'head\.|classifier\.')
# A backbone that returns earlier stages alone does not build the stages after them.
_STAGE = re.compile(r'(?:stages|out_norms)\.(\d+)\.')
_IN_A_BACKBONE = re.compile(r'(stem|stages|out_norms)\.')
# Number of batches that a batch norm has seen. It is not needed, and files of torch before 0.4.1 and others lack it.
_COUNTER = re.compile(r'(.*\.)?num_batches_tracked$')
# Buffers that profilers (thop, fvcore's older ones) leave in a model.
_PROFILED = re.compile(r'(.*\.)?total_(ops|params)$')
RGB = 3


def backbones_of(model: nn.Module) -> dict[str, nn.Module]:
    """The backbones in a model that name their `weight_names`, by their prefixes in its state dict."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(getattr(module, 'weight_names', None), NameMap):
            place = strip_wrappers(name)
            found[f'{place}.' if place else ''] = module
    return found


def unwrapped(model: nn.Module) -> nn.Module:
    """A model without what makes it parallel, or compiled."""
    while is_model_wrapper(model) or hasattr(model, '_orig_mod'):
        model = model.module if is_model_wrapper(model) else model._orig_mod
    return model


def rename_published(state_dict: MutableMapping[str, Tensor], names: NameMap, prefix: str = '') -> None:
    """Give a published checkpoint's entries under `prefix` our names and shapes, in place.

    A state dict with other names, or of another family, stays unchanged.
    """
    inside = [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]
    if not is_published_of(names, inside):
        return
    for name in inside:
        ours = names.to_ours(name)
        if ours is not None and prefix + ours not in state_dict:  # nothing is written over
            state_dict[prefix + ours] = names.to_our_value(ours, state_dict.pop(prefix + name))


def flatten_hook(names: NameMap) -> Callable:
    """A hook of a classifier's `load_state_dict`: gives a flat file of a family the classifier's names, in place."""

    def hook(state_dict, prefix='', *_) -> None:
        rename_published(state_dict, names, prefix)
        for name in [name for name in state_dict if name.startswith((f'{prefix}stem.', f'{prefix}stages.'))]:
            inside = f'{prefix}backbone.{name.removeprefix(prefix)}'
            if inside not in state_dict:  # nothing is written over
                state_dict[inside] = state_dict.pop(name)

    return hook


def load_pretrained(
    model: nn.Module,
    source: str | os.PathLike,
    prefix: str | None = None,
    *,
    may_differ: str | Sequence[str] = (),
    weights: str = 'auto',
    adapt_channels: bool = False,
) -> LoadReport:
    """Load weights from a published or own checkpoint, strictly.

    A backbone takes the backbone of a classifier, a detector or a segmenter, in published names or ours. It may lack
    output norms and the detectors' attention scale; the file may have a classification head, and
    stages that the model does not build, besides.

    A model with a SparX backbone (`SparXClassifier`, or one of mmdet, mmseg or mmpretrain) takes a checkpoint
    of such a model, and everything must match, its heads included. A batch norm's counters and a profiler's buffers
    may be missing; the report says so.

    Args:
        model: SparX backbone, or a model that holds one.
        source: File or address; see `read_weights` for the formats.
        prefix: Prefix of the model's names in the checkpoint, which is removed. By default, for a backbone, the place
            of the family's backbone in the checkpoint, and '' for a whole model. '' takes the names as they are.
        may_differ: Patterns with `*` (see `fnmatch`) of names, under the model's names, that need not match, such as
            'head.fc.*': matching ones are loaded, and the others keep their initial values. It is for fine-tuning
            on other classes.
        weights: Copy of a training checkpoint: 'ema' for the averaged one, 'raw' for the other, 'auto' for the averaged
            one if there is one.
        adapt_channels: True to fit a stem for RGB images to a model with other `in_channels`, see
            `adapt_input_channels`.

    Returns:
        The report, which is also logged.

    Raises:
        RuntimeError: the file cannot be read (see `read_weights`), or does not match; the message names the first
            offenders and the likely cause. The model is left as it was.
        ValueError: the model holds no SparX backbone, the checkpoint has several and no prefix says which, a pattern
            fits no name, or there is no such copy of the weights.
    """
    model = unwrapped(model)
    if not backbones_of(model):
        raise ValueError(f'expected a SparX backbone, or a model that holds one, got {type(model).__name__}')
    state_dict = read_weights(source, weights).state_dict
    found, report = match_weights(
        model, state_dict, str(source), prefix=prefix, may_differ=may_differ, adapt_channels=adapt_channels
    )
    model.load_state_dict(found, strict=False)
    return report


def match_weights(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    source: str,
    *,
    own: Mapping[str, Tensor] | None = None,
    prefix: str | None = None,
    may_differ: str | Sequence[str] = (),
    adapt_channels: bool = False,
    whole: bool = False,
    options: Options | None = None,
) -> tuple[dict[str, Tensor], LoadReport]:
    """Give a checkpoint's weights the model's names, and compare them; loads nothing.

    Args:
        model: Any model. Published names are understood in the place of a backbone of their family.
        state_dict: Weights of the checkpoint, by its names.
        source: Source of the weights, for the report.
        own: State dict of the model, if it is not `model.state_dict()`.
        prefix: Same as for `load_pretrained`.
        may_differ: Same as for `load_pretrained`.
        adapt_channels: Same as for `load_pretrained`.
        whole: True if parts must match, too, that may differ between tasks.
        options: Names of the options that a message suggests.

    Returns:
        The checkpoint's weights that the model takes, by its names, and the report, which is logged.

    Raises:
        RuntimeError, ValueError: as for `load_pretrained`; and an error of a head's `check_backbone`.
    """
    state = model.state_dict() if own is None else own
    full_names = {strip_wrappers(name): name for name in state}
    own = {name: state[full] for name, full in full_names.items()}
    backbones = backbones_of(model)
    home = next(iter(backbones)) if len(backbones) == 1 else None
    if home is not None:
        for part in model.modules():
            if hasattr(part, 'check_backbone'):
                part.check_backbone(backbones[home])
    if prefix is None:
        prefix = _place_of_backbone(state_dict, backbones[''].weight_names, source) if home == '' else ''
    elif prefix:
        prefix = prefix.removesuffix('.') + '.'
    found = {name.removeprefix(prefix): x for name, x in state_dict.items() if name.startswith(prefix)}
    if not any(name.startswith('model.') for name in own) and all(name.startswith('model.') for name in found):
        found = {name.removeprefix('model.'): x for name, x in found.items()}  # Lightning wraps it like this
    for place, backbone in backbones.items():
        rename_published(found, backbone.weight_names, place)
    # A flat file's backbone goes to where the model has its own.
    flat = False
    if home:
        family = backbones[home].weight_names
        flat = family.prefixes(found) == ['']
        if flat:
            rename_published(found, family)
            found = {home + name if _IN_A_BACKBONE.match(name) else name: x for name, x in found.items()}

    adapted = {}
    if adapt_channels:
        adapted = _adapt_channels(own, found, backbones)
    differs = _patterns(may_differ, (*own, *found))
    between_tasks = (flat or home == '') and not whole
    report = _compare(own, found, source, differs, home if between_tasks else None, whole)
    report.adapted = adapted
    print_log(str(report), logger='current')
    if not report.ok:
        cause = Mismatch(report, model, home, own, found, state_dict, options or Options()).likely_cause()
        space = '' if cause.endswith('\n') else ' '
        raise RuntimeError(f'{report.summary()}\n{cause}{space}Nothing was loaded.')
    return {full_names[name]: found[name] for name in report.matched}, report


def _place_of_backbone(names: Iterable[str], family: NameMap, source: str) -> str:
    """The prefix under which a checkpoint has a backbone."""
    places = family.prefixes(names)
    if 'backbone.' in places or (not places and any(name.startswith('backbone.') for name in names)):
        return 'backbone.'
    if len(places) > 1:
        raise ValueError(
            f'{source} holds several {family.family} backbones: say which by prefix=, one of {", ".join(places)}'
        )
    return places[0] if places else ''


def adapt_input_channels(weight: Tensor, channels: int) -> Tensor:
    """Convert weights of a convolution of RGB images for images with other channels, as timm does.

    For one channel the three are summed. For more they are repeated in turn, and scaled so that the response to a
    constant image stays the same.

    Args:
        weight: (out, 3, height, width).
        channels: Number of channels of the images.

    Returns:
        (out, channels, height, width), of the same type.
    """
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
    if channels == 1:
        return exact.sum(1, keepdim=True).to(weight.dtype)
    repeated = exact.repeat(1, -(-channels // RGB), 1, 1)[:, :channels]
    return (repeated * (RGB / channels)).to(weight.dtype)


def _adapt_channels(
    own: Mapping[str, Tensor], found: MutableMapping[str, Tensor], backbones: Mapping[str, nn.Module]
) -> dict[str, tuple[int, int]]:
    """Fit the first convolution of each backbone, in place -> its name: (channels in the model, in the file)."""
    adapted = {}
    for place, backbone in backbones.items():
        name = place + backbone.first_weight
        if name not in own or name not in found or found[name].dim() != 4:
            continue
        (out, channels, *sides), (file_out, file_channels, *file_sides) = own[name].shape, found[name].shape
        if channels != file_channels == RGB and (out, sides) == (file_out, file_sides):
            found[name] = adapt_input_channels(found[name], channels)
            adapted[name] = (channels, file_channels)
    return adapted


def _patterns(may_differ: str | Sequence[str], names: Collection[str]) -> Callable[[str], bool]:
    """Whether a name fits one of the patterns, each of which must fit one of `names`."""
    patterns = [may_differ] if isinstance(may_differ, str) else list(may_differ)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f'may_differ: {pattern!r} fits none of the names, as in: {shorten(names)}')
    return lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)


def _compare(
    own: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    source: str,
    differs: Callable[[str], bool],
    home: str | None,
    whole: bool,
) -> LoadReport:
    """Compare name by name; `home` is the prefix of a backbone for which the rules between tasks hold."""
    report = LoadReport(source, {name: x.numel() for name, x in own.items()})
    for name, x in own.items():
        if name in found and found[name].shape == x.shape:
            report.matched.append(name)
        elif differs(name):
            report.fresh.append(name)
        elif name in found:
            report.wrong_shape[name] = (tuple(x.shape), tuple(found[name].shape))
        elif (home is not None and _MAY_MISS.match(name.removeprefix(home))) or (_COUNTER.match(name) and not whole):
            report.fresh.append(name)
        else:
            report.missing.append(name)
    may_be_left = differs if home is None else _left_between_tasks(own, home, differs)
    for name in found:
        if name not in own:
            (report.left_out if may_be_left(name) or _PROFILED.match(name) else report.unexpected).append(name)
    return report


def _left_between_tasks(own: Iterable[str], home: str, differs: Callable[[str], bool]) -> Callable[[str], bool]:
    """Whether a name of a checkpoint is of a head that the model lacks, or of stages that it does not build."""
    has_head = any(_HEAD.match(name) for name in own)
    built = max(int(match[1]) for name in own if (match := _STAGE.match(name.removeprefix(home))))

    def may_be_left(name: str) -> bool:
        stage = _STAGE.match(name.removeprefix(home))
        unbuilt = stage is not None and int(stage[1]) > built
        return differs(name) or unbuilt or (not has_head and _HEAD.match(name) is not None)

    return may_be_left
