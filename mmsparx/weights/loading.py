"""Loading published and own weights: strictly, safely, with a report."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from fnmatch import fnmatchcase

from mmengine.logging import print_log
from torch import Tensor, nn

from mmsparx.weights.causes import Mismatch
from mmsparx.weights.files import read_state_dict
from mmsparx.weights.names import backbone_prefixes, is_published, to_ours
from mmsparx.weights.report import LoadReport, shorten

# What a published checkpoint of another task lacks: the output norms of dense prediction, and the
# detectors' learnable attention scale. Both start fresh.
_MAY_MISS = re.compile(r'out_norms\.|.*\.in_proj\.scale$')
# What a classification checkpoint has and a backbone does not.
_HEAD = re.compile(r'head\.|classifier\.')
# What a backbone that returns earlier stages alone does not build: the stages after, and the downsampling to them.
_STAGE = re.compile(r'(?:stages|out_norms)\.(\d+)\.(downsample\.)?')
_IN_A_BACKBONE = re.compile(r'(stem|stages|out_norms)\.')


def rename_published(state_dict: MutableMapping[str, Tensor], prefix: str = '') -> None:
    """Rename a published checkpoint's entries under `prefix` to ours, in place.

    Leaves a state dict of other names as it is.
    """
    names = [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]
    if not is_published(names):
        return
    for name in names:
        ours = to_ours(name)
        if ours is not None and prefix + ours not in state_dict:  # nothing is written over
            state_dict[prefix + ours] = state_dict.pop(prefix + name)


def accept_published_names(state_dict, prefix='', *_) -> None:
    """Give a flat classification file a classifier's names, in place: as a hook, `load_state_dict` takes it."""
    rename_published(state_dict, prefix)
    for name in [name for name in state_dict if name.startswith((f'{prefix}stem.', f'{prefix}stages.'))]:
        state_dict[f'{prefix}backbone.{name.removeprefix(prefix)}'] = state_dict.pop(name)


def load_pretrained(
    model: nn.Module,
    source: str | os.PathLike,
    prefix: str | None = None,
    *,
    may_differ: str | Sequence[str] = (),
    weights: str = 'auto',
) -> LoadReport:
    """Load weights from a published or own checkpoint, strictly.

    Into a backbone goes the backbone of a classifier, a detector or a segmenter, in published names or
    ours. Missing and allowed: output norms and the detectors' attention scale. Left over and allowed:
    a classification head, and stages that the model does not build.

    Into a model that holds a SparX backbone (`SparXClassifier`, or one of mmdet, mmseg or mmpretrain)
    goes a checkpoint of such a model, and everything must match, its heads included.

    Args:
        model: a SparX backbone, or a model that holds one.
        source: a file or an address; see `read_weights` for what can be read.
        prefix: of the model's names in the checkpoint, without which they are loaded. By default, for
            a backbone, where the checkpoint has its SparX backbone, and '' for a whole model. ''
            takes the names as they are.
        may_differ: patterns with `*` (see `fnmatch`) of names, under the model's names, that need not
            match, as in 'head.fc.*': they are loaded where they do and keep their initial values
            where they do not. For fine-tuning on other classes.
        weights: 'ema' for the averaged copy of a training checkpoint, 'raw' for the other, 'auto' for
            the averaged one where there is one.

    Returns:
        The report, which is also logged.

    Raises:
        RuntimeError: the file cannot be read (see `read_weights`), or does not match; the message
            names the first offenders and the likely cause. The model is left as it was.
        ValueError: the model holds no SparX backbone, the checkpoint has several and no prefix says
            which, a pattern fits no name, or there is no such copy of the weights.
    """
    own = model.state_dict()
    if not backbone_prefixes(own):
        raise ValueError(f'expected a SparX backbone, or a model that holds one, got {type(model).__name__}')
    state_dict = read_state_dict(source, weights)
    found, report = match_weights(model, own, state_dict, str(source), prefix=prefix, may_differ=may_differ)
    model.load_state_dict({name: found[name] for name in report.matched}, strict=False)
    return report


def match_weights(
    model: nn.Module,
    own: Mapping[str, Tensor],
    state_dict: Mapping[str, Tensor],
    source: str,
    *,
    prefix: str | None = None,
    may_differ: str | Sequence[str] = (),
    whole: bool = False,
) -> tuple[dict[str, Tensor], LoadReport]:
    """Give a checkpoint's weights the model's names, and compare them; loads nothing.

    Args:
        model: any model. In it, published names of SparX backbones are understood.
        own: its state dict.
        state_dict: the checkpoint's weights, by its names.
        source: where they are from, for the report.
        prefix, may_differ: as for `load_pretrained`.
        whole: whether everything must match that need not from one task to another.

    Returns:
        The checkpoint's weights under `prefix`, by the model's names, and the report, which is logged.

    Raises:
        RuntimeError, ValueError: as for `load_pretrained`.
    """
    homes = backbone_prefixes(own)
    home = homes[0] if len(homes) == 1 else None
    if prefix is None:
        prefix = _place_of_backbone(state_dict, source) if home == '' else ''
    elif prefix:
        prefix = prefix.removesuffix('.') + '.'
    found = {name.removeprefix(prefix): x for name, x in state_dict.items() if name.startswith(prefix)}
    for place in {'', *homes}:
        rename_published(found, place)
    # A flat file's backbone goes to where the model has its own.
    flat = bool(home) and backbone_prefixes(found) == ['']
    if flat:
        found = {home + name if _IN_A_BACKBONE.match(name) else name: x for name, x in found.items()}

    differs = _patterns(may_differ, (*own, *found))
    between_tasks = (flat or home == '') and not whole
    report = _compare(own, found, source, differs, home if between_tasks else None)
    print_log(str(report), logger='current')
    if not report.ok:
        cause = Mismatch(report, model, home, found, state_dict.keys(), flat).likely_cause()
        raise RuntimeError(f'{report.summary()}\n{cause} Nothing was loaded.')
    return found, report


def _place_of_backbone(names: Iterable[str], source: str) -> str:
    """The prefix under which a checkpoint has a backbone."""
    places = backbone_prefixes(names)
    if 'backbone.' in places or (not places and any(name.startswith('backbone.') for name in names)):
        return 'backbone.'
    if len(places) > 1:
        raise ValueError(f'{source} holds several SparX backbones: say which by prefix=, one of {", ".join(places)}')
    return places[0] if places else ''


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
        elif home is not None and _MAY_MISS.match(name.removeprefix(home)):
            report.fresh.append(name)
        else:
            report.missing.append(name)
    may_be_left = differs if home is None else _left_between_tasks(own, home, differs)
    for name in found:
        if name not in own:
            (report.left_out if may_be_left(name) else report.unexpected).append(name)
    return report


def _left_between_tasks(own: Iterable[str], home: str, differs: Callable[[str], bool]) -> Callable[[str], bool]:
    """Whether a name of a checkpoint is of a head that the model lacks, or of stages that it does not build."""
    has_head = any(_HEAD.match(name) for name in own)
    built = max(int(match[1]) for name in own if (match := _STAGE.match(name.removeprefix(home))))

    def may_be_left(name: str) -> bool:
        stage = _STAGE.match(name.removeprefix(home))
        unbuilt = stage is not None and (int(stage[1]) > built or (stage[2] is not None and int(stage[1]) == built))
        return differs(name) or unbuilt or (not has_head and _HEAD.match(name) is not None)

    return may_be_left
