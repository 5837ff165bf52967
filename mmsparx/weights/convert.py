"""Files of weights for other code and in other formats, as `mmsparx convert` and `publish` write them."""

import hashlib
import os
from pathlib import Path
from urllib.parse import urlparse

from mmsparx.weights.atomic import AtomicBackend
from mmsparx.weights.contents import Weights, encode_weights, read_weights
from mmsparx.weights.files import NAMED_HASH, is_json
from mmsparx.weights.names import convert_names, convert_value, find_backbones
from mmsparx.weights.report import shorten


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    to: str | None = None,
    weights: str = 'auto',
    force: bool = False,
) -> Weights:
    """Write the weights of a file under other names, or in the other format, bit for bit.

    A flat file stays flat. A training checkpoint keeps weights and meta data, the latter without
    the config's text, which holds this machine's paths and is not read from checkpoints anyway.

    Args:
        source: File, or an address; see `mmsparx.weights.contents.read_weights`.
        target: File to write: .pth, .pt or .safetensors.
        to: Names, 'ours' or 'published' (see `convert_names`); by default they stay.
        weights: Copy to take: 'auto', 'ema' or 'raw'.
        force: True to overwrite an existing `target`.

    Returns:
        The written weights; `left_out` names the rest.

    Raises:
        ValueError: the source holds no SparX backbone, or names without a counterpart; the target is
            the source, or has another suffix.
        FileExistsError: the target is there.
        RuntimeError: the source cannot be read, or is damaged.
    """
    source, target = os.path.expanduser(source), Path(target).expanduser()
    _check_target(target, source, force)
    read = _read(source, weights)
    if to is None:
        state_dict = read.state_dict
    else:
        families = set(find_backbones(read.state_dict).values())
        state_dict = {
            new: convert_value(families, new, read.state_dict[name], to)
            for name, new in convert_names(read.state_dict, to).items()
        }
    meta, dropped = read.meta, []
    if meta is not None:
        dropped = [k for k, x in meta.items() if k == 'cfg' or (target.suffix == '.safetensors' and not is_json(x))]
        meta = {k: x for k, x in meta.items() if k not in dropped}
    written = Weights(
        state_dict,
        meta,
        (*read.left_out, *(f'meta.{key}' for key in dropped)),
    )
    AtomicBackend().put(encode_weights(written, target.suffix), target)
    return written


def publish(
    source: str | os.PathLike,
    target: str | os.PathLike | None = None,
    *,
    weights: str = 'auto',
    force: bool = False,
) -> tuple[Path, str]:
    """Write the weights of a file for others to load.

    The file has neither optimizer nor history, config or paths, but a state dict and of the meta data
    `dataset_meta`, from which inferencers take classes and colours. The same contents give the
    same file. Its name ends in the first 8 digits of its SHA-256 (more, where these have no letter and could be
    a date), which loading it checks.

    Args:
        source, weights, force: Arguments as for `convert`.
        target: File to write, without the digits; by default named after the source and beside it,
            or in the working folder if that is an address.

    Returns:
        The file, and its whole SHA-256.

    Raises:
        ValueError, FileExistsError, RuntimeError: as for `convert`.
    """
    source = os.path.expanduser(source)
    if target is None:
        target = source if os.path.isfile(source) else os.path.basename(urlparse(source).path)
    target = Path(target).expanduser()
    read = _read(source, weights)
    meta = read.meta and {k: x for k, x in read.meta.items() if k == 'dataset_meta'}
    contents = encode_weights(Weights(read.state_dict, meta), target.suffix)
    digest = hashlib.sha256(contents).hexdigest()
    digits = next(digest[:count] for count in range(8, 65) if not digest[:count].isdigit())
    target = target.with_stem(f'{NAMED_HASH.sub("", target.stem)}-{digits}')
    _check_target(target, source, force)
    AtomicBackend().put(contents, target)
    return target, digest


def _read(source: str | os.PathLike, weights: str) -> Weights:
    read = read_weights(source, weights)
    if not find_backbones(read.state_dict):
        raise ValueError(f'{source} holds no SparX backbone; its names begin with: {shorten(read.state_dict)}')
    return read


def _check_target(target: Path, source: str | os.PathLike, force: bool) -> None:
    if not target.exists():
        return
    if os.path.exists(source) and target.samefile(source):
        raise ValueError(f'{target} is the source; it is not overwritten')
    if not force:
        raise FileExistsError(f'{target} exists already; --force (force=True) overwrites it')
