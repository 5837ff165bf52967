"""Contents of a checkpoint: the copy of the weights, and their names without those of wrappers."""

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from mmsparx.weights.files import SUFFIXES, MissingError, UnreadableError, printable, safetensors_package, to_json

COPIES = ('auto', 'ema', 'raw')
# Parts of a name that torch's wrappers (compiled, sharded, checkpointed modules) insert.
WRAPPERS = ('_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module')
# Counters of the updates of averaged models: mmengine's and torch's.
_COUNTERS = ('steps', 'n_averaged')
_HELP = (
    'Training from scratch must be chosen: init_cfg=None on the backbone, pretrained=False of timm.create_model, '
    '--no-pretrained of mmsparx train, or no call of load_pretrained.'
)


@dataclass
class Weights:
    """Contents of a file.

    Attributes:
        state_dict: Weights by the file's names, without the parts that wrappers added.
        meta: Meta data as mmengine's Runner keeps them; None for a flat state dict.
        left_out: Keys of other contents: optimizer, history, another copy of the weights.
    """

    state_dict: dict[str, Tensor]
    meta: dict | None = None
    left_out: tuple[str, ...] = ()


def read_weights(source: str | os.PathLike, weights: str = 'auto') -> Weights:
    """Read a file of weights, safely, and check that it is whole.

    It can be a flat state dict, a file of mmengine's Runner or of training scripts like timm's (under
    `state_dict` or `model`), or safetensors.

    Args:
        source: File, or an address that mmengine can read. See `files.read_checkpoint`.
        weights: Copy: 'ema' for the averaged one, 'raw' for the other, 'auto' for the averaged one if the file has it.

    Raises:
        UnreadableError (a RuntimeError): the file is unavailable or damaged, or holds no weights, or more than data.
        ValueError: `weights` is unknown, or no such copy is in the file.
        ModuleNotFoundError: the package safetensors is needed and not installed.
    """
    source = os.fspath(source)
    try:
        checkpoint = CheckpointLoader.load_checkpoint(source, map_location='cpu')
    except MissingError as error:
        raise MissingError(f'{error}. {_HELP}') from error
    return choose_weights(checkpoint, source, weights)


def choose_weights(checkpoint: object, source: str, weights: str = 'auto') -> Weights:
    """A copy of the weights in a checkpoint that was read; arguments and errors as for `read_weights`.

    mmengine's EMAHook swaps the two copies when it saves: the averaged one is under `state_dict`, the other under
    `ema_state_dict`. Others write the averaged one to `state_dict_ema` or `model_ema`.
    """
    if weights not in COPIES:
        raise ValueError(f'weights: expected one of {", ".join(COPIES)}, got {weights!r}')
    held = [k for k, x in checkpoint.items() if isinstance(x, Mapping)] if isinstance(checkpoint, Mapping) else []
    raw = next((key for key in ('state_dict', 'model') if key in held), None)
    average = next((key for key in ('state_dict_ema', 'model_ema') if key in held), None)
    if 'ema_state_dict' in held:
        raw, average = 'ema_state_dict', raw
    if weights == 'ema' and average is None:
        raise ValueError(f"{source} holds no averaged copy (EMA) of its weights; take weights='raw' or 'auto'")
    key = raw if weights == 'raw' else average or raw
    state_dict = checkpoint if key is None else checkpoint[key]
    if not isinstance(state_dict, Mapping) or not all(
        isinstance(name, str) and isinstance(x, Tensor) for name, x in state_dict.items()
    ):
        raise UnreadableError(
            f'{source}: expected a state dict, flat or under the key "state_dict", got {type(checkpoint).__name__}'
            + _keys_of(checkpoint)
        )
    state_dict = without_wrappers(state_dict)
    if key is None:
        return Weights(state_dict)
    meta = checkpoint.get('meta')
    meta = dict(meta) if isinstance(meta, Mapping) else {}
    return Weights(state_dict, meta, tuple(str(k) for k in checkpoint if k not in (key, 'meta')))


def _keys_of(checkpoint: object) -> str:
    if not isinstance(checkpoint, Mapping):
        return ''
    return f' with the keys {", ".join(printable(str(key)[:100]) for key in list(checkpoint)[:4])}'


def strip_wrappers(name: str) -> str:
    """A name without `WRAPPERS`."""
    return '.'.join(part for part in name.split('.') if part not in WRAPPERS)


def without_wrappers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by the model's own names: without `WRAPPERS`, and `module.` of data-parallel and averaged models.

    The counter of averaged models is left out. Names stay as they are if two would become one.
    """
    names = {name: strip_wrappers(name) for name in state_dict}
    while (weights := {old: name for old, name in names.items() if name not in _COUNTERS}) and all(
        name.startswith('module.') for name in weights.values()
    ):
        names = {old: name.removeprefix('module.') for old, name in weights.items()}
    if len(set(names.values())) < len(names):
        return dict(state_dict)
    return {name: state_dict[old] for old, name in names.items()}


def encode_weights(weights: Weights, suffix: str) -> bytes:
    """The contents of a file of weights, the same at every call: torch's zip format, or safetensors.

    In both, tensors keep names, order, types and bits. safetensors has no order, and only strings as metadata, so names
    and meta are kept as JSON there.

    Raises:
        ValueError: an unknown suffix, or meta data that JSON cannot keep, for safetensors.
        ModuleNotFoundError: the package safetensors is needed and not installed.
    """
    if suffix not in SUFFIXES:
        raise ValueError(f'expected a name that ends in {", ".join(SUFFIXES)}, got {suffix or "none"!r}')
    if suffix == '.safetensors':
        # Copies have no strides, and no two share memory.
        tensors = {k: x.detach().clone(memory_format=torch.contiguous_format) for k, x in weights.state_dict.items()}
        texts = {'format': 'pt', 'mmsparx.names': to_json(list(tensors)), 'mmsparx.meta': to_json(weights.meta)}
        return safetensors_package().torch.save(tensors, texts)
    # A view would be written with all that it is a view of.
    tensors = {
        k: (x if x.untyped_storage().nbytes() == x.nbytes else x.clone()).detach()
        for k, x in weights.state_dict.items()
    }
    buffer = io.BytesIO()
    torch.save(tensors if weights.meta is None else {'meta': weights.meta, 'state_dict': tensors}, buffer)
    return buffer.getvalue()
