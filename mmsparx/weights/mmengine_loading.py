"""mmengine's ways to a checkpoint, each through this package's reader; and models that are loaded strictly.

**Reading.** mmengine has a loader for each kind of address. `secure_mmengine` puts loaders of the same names in their
place, which end in `files.read_checkpoint`. What a loader returns that somebody else has registered is checked, and
`torch.load` within it reads weights only.

**No stored config.** A config is Python, and its types name any function that can be imported. mmengine stores its text
in checkpoints and runs it: on a resume where there is a `config` in the meta data, in inferencers that are given a
checkpoint and no config. In what is read, these texts are replaced by one of ours that says to name the config.

**Errors.** An unavailable file is a `MissingError` that names the address and a fix, in every loader.

**Strictly.** Inferencers, and what else the libraries offer for inference, load by a function of mmengine that warns
where names do not match, and goes on with random weights. There a model with one of this package's backbones is
compared with the checkpoint first, as `load_pretrained` does.
"""

import http.client
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader, checkpoint

from mmsparx.weights.contents import without_wrappers
from mmsparx.weights.files import WEIGHT_KEYS, MissingError, UnreadableError, read_checkpoint
from mmsparx.weights.loading import backbones_of, match_weights
from mmsparx.weights.reading import Location, check_values
from mmsparx.weights.records import RefusedError

STORED_CONFIG = """\
# A config is code, and this one came with a checkpoint: mmsparx has not read it.
raise ValueError(
    'this checkpoint brings a config of its own, which mmsparx does not run, since it could be any code. '
    'Name the config: DetInferencer(model=CONFIG, weights=CHECKPOINT), and likewise for other inferencers.'
)
"""


_KIND = re.compile(r'[\w.+-]+://')


def without_configs(value: object) -> object:
    """Replace the texts that mmengine would run as a config, in place, wherever they are but in the weights."""
    if isinstance(value, dict):
        if isinstance(value.get('config'), (str, bytes)):  # a resume only reads the number of GPUs
            del value['config']
        if isinstance(value.get('cfg'), (str, bytes)):
            value['cfg'] = STORED_CONFIG
        for key, inner in value.items():
            if key not in WEIGHT_KEYS:
                without_configs(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            without_configs(inner)
    return value


def _missing(address: str, reason: object, more: str = '') -> MissingError:
    """The error of an address whose file is not available."""
    said = str(reason).rstrip('.')
    return MissingError(
        f'the weights {address} are not available: {said}. Download the file where the address can be reached, and '
        f'give its path in the place of the address{more}'
    )


def load_from_local(filename: str, map_location: Location = None) -> dict:
    """A file on the disk.

    Raises:
        UnreadableError: it is not available, or is not a checkpoint; or it is an address, of a kind that nobody has
            registered a loader for.
    """
    if (kind := _KIND.match(filename)) and not os.path.lexists(filename):
        known = sorted(scheme for scheme in CheckpointLoader._schemes if _KIND.fullmatch(scheme))  # others are patterns
        raise _missing(filename, f'no loader is registered for {kind[0]}, but for {", ".join(known)}')
    return without_configs(read_checkpoint(filename, map_location))


def load_from_http(
    filename: str, map_location: Location = None, model_dir: str | None = None, progress: bool = os.isatty(0)
) -> dict:
    """An address: downloaded once, by the first process, into the folder of torch.hub.

    Raises:
        UnreadableError: it is not available, or is not a checkpoint.
    """
    folder = Path(model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints'))
    name = os.path.basename(urlparse(filename).path)
    if not name:
        raise _missing(filename, 'it does not end in the name of a file')
    path = folder / name
    try:
        if get_rank() == 0:
            _download(filename, path, progress)
    finally:
        barrier()  # also where the download failed, so that the other processes do not wait for ever
    if not path.exists():  # another unpickler's disk
        _download(filename, path, progress)
    try:
        return load_from_local(str(path), map_location)
    except UnreadableError as error:
        raise UnreadableError(f'{error} {path} is the copy of {filename}: remove it to download it again.') from error


def _download(address: str, path: Path, progress: bool) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(address, str(path), progress=progress)
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
        reason = error.reason if type(error) is URLError else error
        raise _missing(address, reason, f', or put it there as {path}') from None  # the reason is all that it says


def load_from_ceph(filename: str, map_location: Location = None, backend: str = 'petrel') -> dict:
    """An object of a store that mmengine has a backend for."""
    try:
        content = get_file_backend(filename, backend_args={'backend': backend}).get(filename)
    except (OSError, ImportError) as error:
        raise _missing(filename, error) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'checkpoint.pth')
        path.write_bytes(content)
        return load_from_local(str(path), map_location)


def load_from_openmmlab(filename: str, map_location: Location = None) -> dict:
    """A model of mmengine's table of models, which has an address for it, or a file in its own folder."""
    name = filename.partition('://')[2]
    known = checkpoint.get_external_models()
    name = checkpoint.get_deprecated_model_names().get(name, name)
    if name not in known:
        raise _missing(filename, 'mmengine knows no model of that name')
    place = known[name]
    if place.startswith(('http://', 'https://')):
        return load_from_http(place, map_location)
    return load_from_local(os.path.join(checkpoint._get_mmengine_home(), place), map_location)


_OURS: dict[str, Callable] = {
    '': load_from_local,
    'http://': load_from_http,
    'https://': load_from_http,
    r'(\S+\:)?s3://': load_from_ceph,
    r'(\S+\:)?petrel://': load_from_ceph,
    'open-mmlab://': load_from_openmmlab,
    'openmmlab://': load_from_openmmlab,
}


def _choosing(choose: Callable) -> Callable:
    """mmengine's choice of a loader by an address, of which all but ours are checked, whenever they were registered."""

    @wraps(choose)
    def chosen(cls, path):
        load = choose(path)
        return _naming_the_address(load if load in _OURS.values() else _checked(load))

    chosen.is_secured = True
    return chosen


def _naming_the_address(load: Callable) -> Callable:
    """A loader whose errors name the address that was asked for beside the one that stands for it."""

    @wraps(load)  # mmengine logs the loader's name
    def naming(filename, *args, **kwargs):
        try:
            return load(filename, *args, **kwargs)
        except MissingError as error:
            if str(filename) in str(error):
                raise
            raise MissingError(f'{filename}: {error}') from None

    return naming


def _checked(load: Callable) -> Callable:
    """Another's loader, within which weights alone are loaded, and whose result is checked."""

    @wraps(load)
    def checked(filename, *args, **kwargs):
        try:
            with weights_only():
                found = load(filename, *args, **kwargs)
        except KeyError as error:  # of a table of names
            raise _missing(filename, f'{load.__name__} knows no {error}') from error
        except (OSError, ImportError) as error:
            raise _missing(filename, error) from error
        try:
            return without_configs(check_values(found))
        except RefusedError as error:
            raise UnreadableError(f'{filename} was not loaded: {error}') from error

    return checked


_SWITCH = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
_lock = threading.Lock()
_within = 0  # number of entered `weights_only` blocks, in all threads
_before: str | None = None  # the switch as the first of them found it


@contextmanager
def weights_only() -> Iterator[None]:
    """Let every `torch.load` of the process load weights only, even if it requests otherwise.

    Raises:
        RuntimeError: the environment switches weights-only loading off.
    """
    global _within, _before
    if os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'):
        raise RuntimeError(
            'the environment variable TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD switches safe loading off: a checkpoint could '
            'run any code. Unset it; mmengine checkpoints load without it.'
        )
    with _lock:
        if not _within:
            _before = os.environ.get(_SWITCH)
            os.environ[_SWITCH] = '1'
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if not _within:
                os.environ.pop(_SWITCH) if _before is None else os.environ.update({_SWITCH: _before})


# Modules of the libraries that load a model for inference.
_INFERENCE = ('mmengine.infer.', 'mmdet.apis.', 'mmseg.apis.', 'mmpretrain.apis.')


def _inference_callers() -> set[str]:
    """The modules of the libraries' inference that are among the callers.

    Their functions cannot be wrapped instead: an inferencer may import this package, by its config, while it loads.
    """
    names, frame = set(), sys._getframe()
    while frame is not None:
        names.add(frame.f_globals.get('__name__', ''))
        frame = frame.f_back
    return {name for name in names if name.startswith(_INFERENCE)}


# The linear layer of a classifier's head.
_FC = 'head.fc'


def _head_shape(weights: Mapping[str, torch.Tensor]) -> torch.Size | None:
    return weights[f'{_FC}.weight'].shape if f'{_FC}.weight' in weights else None


def _strict(load: Callable) -> Callable:
    """`mmengine.runner.checkpoint.load_state_dict`, strict where our models are loaded for inference."""

    @wraps(load)
    def load_state_dict(module, state_dict, strict=False, logger=None):
        if isinstance(state_dict, Mapping) and backbones_of(module) and (callers := _inference_callers()):
            # mmpretrain.get_model is also how a classifier is made for other classes.
            own, found = module.state_dict(), without_wrappers(state_dict)
            new_head = callers == {'mmpretrain.apis.model'} and _head_shape(own) != _head_shape(found)
            differs = f'{_FC}.*' if new_head and _head_shape(own) is not None else ()
            state_dict, _ = match_weights(module, found, 'the checkpoint', may_differ=differs)
        return load(module, state_dict, strict, logger)

    load_state_dict.is_secured = True
    return load_state_dict


def secure_mmengine() -> None:
    """Make mmengine's loading safe, and strict for our models, in this process; may be called again."""
    for prefix, load in _OURS.items():
        if CheckpointLoader._schemes.get(prefix) is not load:
            CheckpointLoader.register_scheme(prefix, load, force=True)
    checkpoint.load_from_http = load_from_http  # torchvision:// and mmcls:// load by it
    if not hasattr(CheckpointLoader._get_checkpoint_loader, 'is_secured'):
        CheckpointLoader._get_checkpoint_loader = classmethod(_choosing(CheckpointLoader._get_checkpoint_loader))
    if not hasattr(checkpoint.load_state_dict, 'is_secured'):
        checkpoint.load_state_dict = _strict(checkpoint.load_state_dict)
