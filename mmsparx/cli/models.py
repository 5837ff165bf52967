"""Models by name: a config file, a shipped config, or a model of timm's, with a checkpoint or random weights.

A command takes `--model NAME [CHECKPOINT]`, once for each model: a checkpoint stands beside its model, and no character
of a path or a name is special.
"""

import difflib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from torch import nn

from mmsparx.cli.named_model import PUBLISHED, NamedModel, scope_of
from mmsparx.cli.preprocessing import Preprocessing, of_config, of_timm
from mmsparx.engine.classes import classes_of
from mmsparx.engine.command_line import read_config
from mmsparx.engine.devices import device_of
from mmsparx.engine.pretrained import drop_pretrained
from mmsparx.weights import match_weights, read_weights
from mmsparx.weights.contents import Weights
from mmsparx.zoo import list_configs, resolve_config


def load_models(
    given: Sequence[Sequence[str]], labels: Sequence[str] | None = None, *, seed: int = 0, device: str | None = None
) -> list[NamedModel]:
    """Build the models that `--model` names, each with its own checkpoint or random weights.

    Args:
        given: Name of each model, and its checkpoint if there is one.
        labels: Labels of the models; by default their names, with the checkpoints' where these are the same.
        seed: Seed of random weights.
        device: Device such as 'cpu' or 'cuda:0'; by default a GPU if there is one.

    Raises:
        ValueError: Several values for one model, labels that are not one for each model or not different, or see
            `load_model`.
        RuntimeError: See `load_model`.
    """
    for values in given:
        if len(values) > 2:
            raise ValueError(
                f'--model: expected NAME or NAME CHECKPOINT, got {" ".join(values)}; repeat --model for others'
            )
    if labels is not None and len(labels) != len(given):
        raise ValueError(f'--labels: expected one for each of the {len(given)} models, got {len(labels)}')
    chosen = labels or _labels(given)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f'expected different names for the models, got {", ".join(chosen)}; give --labels')
    return [
        load_model(*values, seed=seed, device=device, label=label) for values, label in zip(given, chosen, strict=True)
    ]


def load_model(
    name: str, checkpoint: str | None = None, *, seed: int = 0, device: str | None = None, label: str | None = None
) -> NamedModel:
    """Build a model by its name, in evaluation mode.

    Args:
        name: Config file, name of a shipped config, or of a model in timm's registry, which has this package's.
        checkpoint: File or address, which has to match the model; 'published' for the weights that timm, or a
            classification config, names; None for random ones, those that training from scratch would start from.
        seed: Seed of random weights.
        device: Device such as 'cpu' or 'cuda:0'; by default a GPU if there is one.
        label: Label of the model; by default its name.

    Raises:
        ValueError: There is no model of that name, it is not of RGB images, it has no published weights, or there is no
            such device.
        RuntimeError: The checkpoint cannot be read, or does not match; see `mmsparx.weights.load_pretrained`.
    """
    device = device_of(device)
    path = config_path(name)
    build = _from_timm if path is None else _from_config
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, cfg, preprocessing, known = build(name if path is None else path, checkpoint)
    module.to(device)
    module.eval()  # some of mmdet's backbones do not return themselves
    short = name if path is None else path.stem
    classes, palette = known.get('classes'), known.get('palette')
    return NamedModel(module, name, label or short, checkpoint, seed, preprocessing, cfg, classes, palette)


def _labels(given: Sequence[Sequence[str]]) -> list[str]:
    names = [_short(name) for name, *_ in given]
    return [
        name if names.count(name) == 1 else f'{name}, {Path(checkpoint[0]).stem if checkpoint else "random"}'
        for name, (_, *checkpoint) in zip(names, given, strict=True)
    ]


def _short(name: str) -> str:
    return Path(name).stem if name.endswith('.py') else name.rpartition('/')[2]


def config_path(name: str) -> Path | None:
    """The config file of that name, shipped or not; None for a model of timm's.

    Raises:
        ValueError: Neither; the nearest names are listed.
    """
    try:
        return resolve_config(name)
    except ValueError as error:
        known_to_timm = [] if name.endswith('.py') else _timm_models()
        if name.partition('.')[0] in known_to_timm:  # the part after a point names weights
            return None
        known = [*known_to_timm, *(config.name for config in list_configs())]
        near = difflib.get_close_matches(name, known)
        hint = f'; nearest: {", ".join(near)}' if near and not name.endswith('.py') else ''
        if not known_to_timm and not name.endswith('.py'):
            hint += ". timm is not installed: pip install 'mmsparx[cls]'"
        raise ValueError(
            f'no model {name!r}: expected a config file, the name of a shipped config (`mmsparx configs` lists them) '
            f'or a model of timm{hint}'
        ) from error


def _timm_models() -> list[str]:
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != 'timm':
            raise
        return []
    import mmsparx.timm  # noqa: F401  (registers the package's models)

    return timm.list_models()


Built = tuple[nn.Module, Config | None, Preprocessing, dict[str, Any]]


def _from_config(path: Path, checkpoint: str | None) -> Built:
    cfg = read_config(path)
    if 'model' not in cfg:
        raise ValueError(f'{path}: expected a config with a model, got none')
    if checkpoint == PUBLISHED:
        checkpoint = _published_address(cfg, path)
    # Names in the config would be loaded into the backbone, and then written over.
    drop_pretrained(cfg.model)
    preprocessor = {'data_preprocessor': cfg.data_preprocessor} if 'data_preprocessor' in cfg else {}
    with scope_of(cfg):
        model = MODELS.build({**preprocessor, **cfg.model})
        if checkpoint is None:
            model.init_weights()
        weights = None if checkpoint is None else _load(model, read_weights(checkpoint), checkpoint)
        known = classes_of(cfg, weights.meta if weights else None)
    return model, cfg, of_config(cfg), known


def _published_address(cfg: Config, path: Path) -> str:
    address = (cfg.get('init_cfg') or {}).get('checkpoint')
    if address is None or cfg.get('default_scope') != 'mmpretrain':
        raise ValueError(f'{path.stem}: no weights of the whole model are published; name a checkpoint')
    return address


def _from_timm(name: str, checkpoint: str | None) -> Built:
    import timm

    published = checkpoint == PUBLISHED
    if published and not getattr(timm.get_pretrained_cfg(name), 'has_weights', False):
        raise ValueError(f'{name}: no weights are published; name a checkpoint')
    options, weights = {}, None
    if checkpoint is not None and not published:
        weights = read_weights(checkpoint)
        classifier = f'{(timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()).classifier}.weight'
        if classifier in weights.state_dict:
            options['num_classes'] = len(weights.state_dict[classifier])
    model = timm.create_model(name, pretrained=published, **options)
    if weights is not None:
        _load(model, weights, checkpoint)
    return model, None, of_timm(model), {}


def _load(model: nn.Module, weights: Weights, source: str) -> Weights:
    """Load weights that must match."""
    found, _ = match_weights(model, weights.state_dict, str(source))
    model.load_state_dict(found, strict=False)  # the report names the rest
    return weights


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress reports of matches, since mmengine logs to stdout, and warnings of the libraries."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', module=r'(mmcv|mmdet|mmseg|mmpretrain|timm)\.')
            yield
    finally:
        logger.setLevel(level)
