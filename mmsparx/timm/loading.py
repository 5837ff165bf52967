"""Loading of weights into our models by timm's functions, all of which go through `mmsparx.weights`.

timm reads files by `torch.load`, weights only, and by the package safetensors. Within its functions that load a file
into one of our models, the reader of `mmsparx.weights` takes the place of both: it sees damage, and reads what mmengine
writes as well. Files of the Hugging Face hub in safetensors' format, and other models, are left to timm.
"""

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import wraps

from torch import Tensor, nn

from mmsparx.hub import PREFIXES
from mmsparx.weights import choose_weights, flatten_hook, match_weights, read_checkpoint
from mmsparx.weights.causes import Options
from mmsparx.weights.contents import without_wrappers
from mmsparx.weights.files import open_file
from mmsparx.weights.loading import backbones_of

# timm's functions that read a copy of the weights in a file, and those that read all that is in one.
_READERS_OF_WEIGHTS = (('timm.models._helpers', 'load_state_dict'),)
_READERS = (('timm.models._helpers', '_torch_load'), ('timm.task._helpers', '_load_train_checkpoint'))
# Functions that load a file into the model, or training task, of their first argument.
_ENTRIES = (
    ('timm.models._helpers', 'load_checkpoint'),
    ('timm.models._helpers', 'resume_checkpoint'),
    ('timm.task._helpers', 'resume_task_checkpoint'),
    ('timm.task._helpers', 'load_task_ema_checkpoint'),
)
_FC = 'head.fc.weight'
_HEAD, _OUTPUT_NORM = 'head.', 'out_norms.'


def _network(family: str, arch: str, same_family: bool) -> str:
    if family not in PREFIXES:
        return f'{family}(arch={arch!r})'
    return f"timm.create_model('{PREFIXES[family]}_{arch}')"


OPTIONS = Options(
    network=_network,
    in_channels='in_chans',
    scale="timm.create_model(..., aggregator=dict(type='DMCA', learnable_scale=True))",
    no_scale='leave learnable_scale=True out of aggregator=dict(...) of timm.create_model',
    prefix=None,
    alone=None,
    differ=None,
)
_ours: ContextVar[bool] = ContextVar('_ours', default=False)


def match_checkpoint(
    state_dict: Mapping[str, Tensor], model: nn.Module, source: str = 'the checkpoint'
) -> dict[str, Tensor]:
    """A checkpoint's weights by the model's names, those that it takes.

    As timm does it, a head of other classes, and one that the file does not have, keeps its initial values, and a stem
    of RGB images is fitted to other channels. Everything else must match. Where the description of the weights says
    that they have no classes, and they are those of a backbone alone, as `SparXMamba.save_pretrained` writes it, the
    norm of the head keeps its initial values as well, and output norms are left out.

    Args:
        state_dict: State dict with published names or ours, flat or a classifier's.
        model: Model, a `TimmClassifier`.
        source: Source of the weights, for messages.

    Raises:
        RuntimeError: something does not match that must.
    """
    own, found = model.state_dict(), without_wrappers(state_dict)
    flatten_hook(model.backbone.weight_names)(found)
    heads = [weights[_FC].shape if _FC in weights else None for weights in (own, found)]
    differs = ['head.fc.*'] if heads[0] != heads[1] else []
    own_head = {}
    if getattr(model, 'pretrained_cfg', {}).get('num_classes') == 0 and not _has(found, _HEAD):
        own_head = {name: x for name, x in own.items() if name.startswith(_HEAD)}
        differs = [f'{part}*' for part in (_HEAD, _OUTPUT_NORM) if _has((*own, *found), part)]
    matched, _ = match_weights(
        model, found, str(source), own=own, may_differ=differs, adapt_channels=True, options=OPTIONS
    )
    return {**own_head, **matched}  # timm loads strictly


def _has(names: Iterable[str], part: str) -> bool:
    return any(name.startswith(part) for name in names)


@contextmanager
def reading_ours() -> Iterator[None]:
    """Let timm read files by this package's reader."""
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)


def secure_timm() -> None:
    """Let timm's functions read by this package where they load into one of our models; may be called again."""
    for places, wrap in ((_READERS_OF_WEIGHTS, _choosing), (_READERS, _reading), (_ENTRIES, _loading)):
        for module, name in places:
            with suppress(ImportError, AttributeError):  # not in every version: torch.load, weights only, is left then
                _replace(getattr(importlib.import_module(module), name), wrap)


def _replace(function: Callable, wrap: Callable[[Callable], Callable]) -> None:
    """Put a wrapped function in the place of a function of timm, in every module of timm that has it."""
    if hasattr(function, 'is_secured'):
        return
    wrapped = wraps(function)(wrap(function))
    wrapped.is_secured = True
    for module in [module for name, module in sys.modules.items() if name.partition('.')[0] == 'timm']:
        for name, value in list(vars(module).items()):
            if value is function:
                setattr(module, name, wrapped)


def _choosing(read: Callable) -> Callable:
    def choosing(checkpoint_path, use_ema=True, device='cpu', **kwargs):
        if _ours.get():
            checkpoint = read_checkpoint(checkpoint_path, device)
            return choose_weights(checkpoint, str(checkpoint_path), 'auto' if use_ema else 'raw').state_dict
        return read(checkpoint_path, use_ema, device, **kwargs)

    return choosing


def _reading(read: Callable) -> Callable:
    def reading(checkpoint_path, *args, **kwargs):
        if _ours.get():
            return read_checkpoint(checkpoint_path, kwargs.get('map_location'))
        return read(checkpoint_path, *args, **kwargs)

    return reading


def _loading(load: Callable) -> Callable:
    def loading(model, checkpoint_path, *args, **kwargs):
        if not isinstance(model, nn.Module) or not backbones_of(model):  # of a model, or of a training task
            return load(model, checkpoint_path, *args, **kwargs)
        open_file(checkpoint_path).close()  # says what is wrong with it where timm does not
        with reading_ours():
            return load(model, checkpoint_path, *args, **kwargs)

    return loading
