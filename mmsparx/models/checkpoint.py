"""Loading published and own weights: strictly, safely, with a report."""

import os
import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pickle import UnpicklingError

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmsparx.models.names import is_published, to_ours
from mmsparx.safe_loading import allow_mmengine_globals, weights_only

allow_mmengine_globals()

# What a published checkpoint of another task lacks: the output norms of dense prediction, and the
# detectors' learnable attention scale. Both start fresh.
_MAY_MISS = re.compile(r'out_norms\.|.*\.in_proj\.scale$')
# What a classification checkpoint has and a backbone does not.
_MAY_BE_LEFT = re.compile(r'head\.|classifier\.')


@dataclass
class LoadReport:
    """What became of a checkpoint's entries, by names of the model.

    Attributes:
        source: where the weights came from.
        loaded: names that were loaded.
        fresh: names that the checkpoint lacks and may lack; they keep their initial values.
        ignored: names of the checkpoint that the model lacks and may lack.
        missing: names that the checkpoint should have had.
        unexpected: names of the checkpoint that fit nothing.
        mismatched: name -> (shape in the model, shape in the checkpoint).
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple, tuple]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        lines = [f'weights from {self.source}: {len(self.loaded)} tensors loaded']
        explained = (
            (self.fresh, 'not in the file, keep their initial values'),
            (self.ignored, 'in the file, not in the model, left out'),
            (self.missing, 'MISSING in the file'),
            (self.unexpected, 'UNEXPECTED in the file'),
            ([f'{k} (model {m}, file {f})' for k, (m, f) in self.mismatched.items()], 'of ANOTHER SHAPE'),
        )
        lines += [f'  {len(names)} {what}: {_some(names)}' for names, what in explained if names]
        return '\n'.join(lines)


def _some(names: Iterable[str], count: int = 4) -> str:
    names = list(names)
    return ', '.join(names[:count]) + (f', ... ({len(names) - count} more)' if len(names) > count else '')


def rename_published(state_dict: MutableMapping[str, Tensor], prefix: str = '') -> None:
    """Rename a published checkpoint's entries under `prefix` to ours, in place.

    Leaves a state dict of other names as it is.
    """
    names = [name.removeprefix(prefix) for name in state_dict if name.startswith(prefix)]
    if not is_published(names):
        return
    for name in names:
        ours = to_ours(name)
        if ours is not None:
            state_dict[prefix + ours] = state_dict.pop(prefix + name)


def read_state_dict(source: str) -> dict[str, Tensor]:
    """The weights in a file or at an address that mmengine can read, loaded weights-only.

    Takes a flat state dict and what a Runner writes (under `state_dict`), and drops a `module.`
    prefix.

    Raises:
        RuntimeError: the file cannot be had, is damaged, holds more than weights, or holds none;
            chained to the error underneath.
    """
    help_ = 'Training from scratch must be chosen: tools/train.py --no-pretrained, or init_cfg=None on the backbone.'
    try:
        with weights_only():
            checkpoint = CheckpointLoader.load_checkpoint(source, map_location='cpu')
    except UnpicklingError as error:
        # The cause, without the advice to load unsafely that torch wraps it in.
        cause = re.split(r'WeightsUnpickler error:|a trusted source\.', str(error))[-1].split('\n\nCheck the doc')[0]
        raise RuntimeError(
            f'{source} was not loaded: it is no checkpoint, or holds more than weights and could run code. '
            f'{cause.strip()}'
        ) from error
    except Exception as error:  # reading a damaged file can end in any way, an OSError included
        if isinstance(error, OSError) and not os.path.isfile(source):  # urllib's errors are OSErrors
            raise RuntimeError(f'the weights {source} cannot be had: {error}. {help_}') from error
        raise RuntimeError(f'{source} is damaged, or no checkpoint: {error}') from error
    state_dict = checkpoint
    for key in ('state_dict', 'model'):
        if isinstance(state_dict, Mapping) and isinstance(state_dict.get(key), Mapping):
            state_dict = state_dict[key]
    if not isinstance(state_dict, Mapping) or not all(
        isinstance(name, str) and isinstance(x, Tensor) for name, x in state_dict.items()
    ):
        raise RuntimeError(
            f'{source}: expected a state dict, flat or under the key "state_dict", got {type(checkpoint).__name__}'
            + (f' with the keys {_some(map(str, checkpoint))}' if isinstance(checkpoint, Mapping) else '')
        )
    return {name.removeprefix('module.'): tensor for name, tensor in state_dict.items()}


def load_pretrained(model: nn.Module, source: str, prefix: str | None = None) -> LoadReport:
    """Load a backbone's weights from a published or own checkpoint, strictly.

    The checkpoint may be of a classifier, a detector or a segmenter, in published names or ours.
    Missing and allowed: output norms and the detectors' attention scale. Left over and allowed: a
    classification head, and stages that the model does not build.

    Args:
        model: a SparX backbone.
        source: a file or an address that mmengine can read.
        prefix: of the backbone's names in the checkpoint; by default 'backbone.' where there are
            such names. '' takes the names as they are.

    Returns:
        The report, which is also logged.

    Raises:
        RuntimeError: the file cannot be read (see `read_state_dict`), or does not match; the message
            names the first offenders and the likely cause. The model is left as it was.
    """
    state_dict = read_state_dict(source)
    if prefix is None:
        prefix = 'backbone.' if any(name.startswith('backbone.') for name in state_dict) else ''
    elif prefix:
        prefix = prefix.removesuffix('.') + '.'
    state_dict = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    rename_published(state_dict)
    report = _compare(model, state_dict, str(source))
    if not report.ok:
        raise RuntimeError(f'{report}\n{_likely_cause(model, state_dict, report)} Nothing was loaded.')
    model.load_state_dict({name: state_dict[name] for name in report.loaded}, strict=False)
    print_log(str(report), logger='current')
    return report


def _compare(model: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> LoadReport:
    report = LoadReport(source)
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in state_dict:
            (report.fresh if _MAY_MISS.match(name) else report.missing).append(name)
        elif state_dict[name].shape != tensor.shape:
            report.mismatched[name] = (tuple(tensor.shape), tuple(state_dict[name].shape))
        else:
            report.loaded.append(name)
    for name in state_dict:
        if name not in own:
            (report.ignored if _MAY_BE_LEFT.match(name) or _is_unbuilt(model, name) else report.unexpected).append(name)
    return report


def _is_unbuilt(model: nn.Module, name: str) -> bool:
    """Whether a name belongs to what follows the last stage that the model builds."""
    built = len(getattr(model, 'stages', ()))
    match = re.match(r'(?:stages|out_norms)\.(\d+)\.(downsample\.)?', name)
    return bool(match and built and (int(match[1]) >= built or (match[2] and int(match[1]) == built - 1)))


def _likely_cause(model: nn.Module, state_dict: Mapping[str, Tensor], report: LoadReport) -> str:
    if not report.loaded and not report.mismatched:
        return f"None of its names is a SparX backbone's; they begin with: {_some(state_dict)}."
    stem, file_stem = (
        {name: tuple(x.shape) for name, x in names.items() if name.startswith('stem.')}
        for names in (model.state_dict(), state_dict)
    )
    layers, file_layers = (
        len({match[0] for match in (re.match(r'stages\.\d+\.layers\.\d+\.', name) for name in names) if match})
        for names in (model.state_dict(), state_dict)
    )
    if stem != file_stem or layers != file_layers or report.mismatched:
        archs = getattr(model, 'ARCHITECTURES', {}).items() if layers != file_layers else ()
        perhaps = [f' (perhaps {name!r})' for name, arch in archs if arch.depth == file_layers]
        return (
            f'The checkpoint is of another arch{"".join(perhaps)}: it has {file_layers} layers and {len(file_stem)} '
            f'tensors in the stem, this model {layers} and {len(stem)}.'
        )
    if any(name.endswith('.scale') for name in report.unexpected):
        return 'It has a learnable attention scale, which aggregator=dict(..., learnable_scale=True) gives the model.'
    return 'The checkpoint is of another network, or incomplete.'
