"""Files of weights: reading them, choosing the averaged copy, writing them."""

import ast
import hashlib
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pickle import UnpicklingError

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from mmsparx.weights.reading import weights_only

SUFFIXES = ('.pth', '.pt', '.safetensors')
COPIES = ('auto', 'ema', 'raw')
# As torch.hub and mmengine name files: the first digits of their SHA-256. Eight decimal ones are a date, or a count.
NAMED_HASH = re.compile(r'-(?=\d*[a-f])([0-9a-f]{8,64})$')


@dataclass
class Weights:
    """What a file holds.

    Attributes:
        state_dict: its weights, by its own names, without the `module.` of a data-parallel model.
        meta: what describes them, as mmengine's Runner keeps it; None for a flat state dict.
        left_out: the keys of what else it holds: optimizer, history, another copy of the weights.
    """

    state_dict: dict[str, Tensor]
    meta: dict | None = None
    left_out: tuple[str, ...] = ()


def read_state_dict(source: str | os.PathLike, weights: str = 'auto') -> dict[str, Tensor]:
    """The weights in a file or at an address, by the file's names; see `read_weights`."""
    return read_weights(source, weights).state_dict


def read_weights(source: str | os.PathLike, weights: str = 'auto') -> Weights:
    """Read a file of weights, weights-only, and see that it is whole.

    Takes a flat state dict, what mmengine's Runner writes, what training scripts of timm's kind write
    (under `state_dict` or `model`), and safetensors.

    Args:
        source: a file, or an address that mmengine can read. Where a file's name ends in `-` and 8 or
            more digits of a SHA-256, its contents must have it.
        weights: 'ema' for the averaged copy, 'raw' for the other, 'auto' for the averaged one where
            the file has it.

    Raises:
        RuntimeError: the file cannot be had, is damaged, holds more than weights, or holds none;
            chained to the error underneath.
        ValueError: `weights` is unknown, or no such copy is in the file; safetensors at an address.
        ModuleNotFoundError: the package safetensors is needed and not installed.
    """
    source = os.fspath(source)
    local = os.path.expanduser(source)
    if os.path.isfile(local):
        _check_named_hash(local)
    elif source.endswith('.safetensors') and '://' in source:
        raise ValueError(f'{source}: safetensors are read from files, not from addresses; download it first')
    help_ = 'Training from scratch must be chosen: tools/train.py --no-pretrained, or init_cfg=None on the backbone.'
    try:
        if source.endswith('.safetensors'):
            checkpoint = _read_safetensors(local)
        else:
            with weights_only():
                checkpoint = CheckpointLoader.load_checkpoint(source, map_location='cpu')
    except ImportError:  # says what to install
        raise
    except UnpicklingError as error:
        # The cause, without the advice to load unsafely that torch wraps it in.
        cause = re.split(r'WeightsUnpickler error:|a trusted source\.', str(error))[-1].split('\n\nCheck the doc')[0]
        raise RuntimeError(
            f'{source} was not loaded: it is no checkpoint, or holds more than weights and could run code. '
            f'{cause.strip()}'
        ) from error
    except Exception as error:  # reading a damaged file can end in any way, an OSError included
        if isinstance(error, OSError) and not os.path.isfile(local):  # urllib's errors are OSErrors
            raise RuntimeError(f'the weights {source} cannot be had: {error}. {help_}') from error
        raise RuntimeError(f'{source} is damaged, or no checkpoint: {error}') from error
    return choose_weights(checkpoint, source, weights)


def choose_weights(checkpoint: object, source: str, weights: str = 'auto') -> Weights:
    """A copy of the weights in a checkpoint that was read; arguments and errors as for `read_weights`.

    mmengine's EMAHook swaps the two copies when it saves: the averaged one is under `state_dict`, the
    other under `ema_state_dict`. Others write the averaged one to `state_dict_ema` or `model_ema`.
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
        raise RuntimeError(
            f'{source}: expected a state dict, flat or under the key "state_dict", got {type(checkpoint).__name__}'
            + (f' with the keys {", ".join(map(str, list(checkpoint)[:4]))}' if isinstance(checkpoint, Mapping) else '')
        )
    state_dict = dict(state_dict)
    if key == 'ema_state_dict':
        state_dict.pop('steps', None)  # the number of updates
    if all(name.startswith('module.') for name in state_dict):
        state_dict = {name.removeprefix('module.'): x for name, x in state_dict.items()}
    if key is None:
        return Weights(state_dict)
    meta = checkpoint.get('meta')
    meta = dict(meta) if isinstance(meta, Mapping) else {}
    return Weights(state_dict, meta, tuple(str(k) for k in checkpoint if k not in (key, 'meta')))


def encode_weights(weights: Weights, suffix: str) -> bytes:
    """The contents of a file of weights, the same at every call: torch's zip format, or safetensors.

    In both, tensors keep names, order, types and bits. safetensors has no order and texts alone for
    meta data, so there names and meta are kept as Python literals.

    Raises:
        ValueError: an unknown suffix, or meta data that are no literals, for safetensors.
        ModuleNotFoundError: the package safetensors is needed and not installed.
    """
    if suffix not in SUFFIXES:
        raise ValueError(f'expected a name that ends in {", ".join(SUFFIXES)}, got {suffix or "none"!r}')
    if suffix == '.safetensors':
        if not is_literal(weights.meta):
            raise ValueError(f'meta: expected numbers, texts, lists and dicts of them, got {weights.meta}')
        # Without strides, and no two in the same memory.
        tensors = {k: x.detach().clone(memory_format=torch.contiguous_format) for k, x in weights.state_dict.items()}
        texts = {'format': 'pt', 'mmsparx.names': repr(list(tensors)), 'mmsparx.meta': repr(weights.meta)}
        return _safetensors().torch.save(tensors, texts)
    # A view would be written with all that it is a view of.
    tensors = {
        k: (x if x.untyped_storage().nbytes() == x.nbytes else x.clone()).detach()
        for k, x in weights.state_dict.items()
    }
    buffer = io.BytesIO()
    torch.save(tensors if weights.meta is None else {'meta': weights.meta, 'state_dict': tensors}, buffer)
    return buffer.getvalue()


def is_literal(value: object) -> bool:
    """Whether Python reads a value from its own text, as it does numbers, texts, and lists and dicts of them."""
    try:
        ast.literal_eval(repr(value))
    except (ValueError, SyntaxError):
        return False
    return True


def _read_safetensors(path: str) -> dict:
    package = _safetensors()
    with open(path, 'rb') as file:
        tensors = package.torch.load(file.read())
    with package.safe_open(path, framework='pt') as file:
        texts = file.metadata() or {}
    names, meta = (ast.literal_eval(texts.get(f'mmsparx.{key}', 'None')) for key in ('names', 'meta'))
    if names is not None and set(names) == set(tensors):
        tensors = {name: tensors[name] for name in names}
    return tensors if meta is None else {'meta': meta, 'state_dict': tensors}


def _safetensors():
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'files that end in .safetensors need the package safetensors: pip install safetensors', name='safetensors'
        ) from error
    return safetensors


def _check_named_hash(path: str) -> None:
    """See that a file has the SHA-256 that its name promises, if it promises one."""
    stem, suffix = os.path.splitext(path)
    named = NAMED_HASH.search(stem)
    if named is None or suffix not in SUFFIXES:
        return
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if not digest.hexdigest().startswith(named[1]):
        raise RuntimeError(
            f'{path} is damaged, or was renamed: the SHA-256 of its contents begins with '
            f'{digest.hexdigest()[: len(named[1])]}, and not with {named[1]} as its name says. '
            'Copy or download it again; take the digits out of the name where they mean something else.'
        )
