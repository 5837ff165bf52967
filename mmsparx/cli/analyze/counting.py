"""Models as they are counted: built by name, on torch's meta device, at the size that the papers count at."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmsparx.analysis import Complexity, complexity, two_stage_complexity
from mmsparx.cli.models import config_path
from mmsparx.engine.command_line import read_config
from mmsparx.engine.options import apply_options

# Height and width that the papers count at, by the scope of a config.
SHAPES = {'mmdet': (800, 1280), 'mmseg': (512, 2048), 'mmpretrain': (224, 224)}
# Containers whose children are parts of their own, by their names; besides those that are never called.
_OPENED = ('backbone', 'roi_head', 'stages', 'layers')


def build(
    name: str, shape: Sequence[int] | None = None, options: Mapping | None = None, allow_new_keys: bool = False
) -> tuple[nn.Module, int, int]:
    """A model in evaluation mode on the meta device, and the height and width to count it at.

    Args:
        name: Config file, name of a shipped config, or of a model of timm's.
        shape: Height and width; by default those of `SHAPES`, and the input size of a model of timm's.
        options: Settings of the config to override, as `--cfg-options` has them.
        allow_new_keys: Whether others may be set than those that the config or its classes have.

    Raises:
        ValueError: There is no such model, a setting is not known, sides are below 1, or there is none for a config of
            an unknown library.
    """
    path = config_path(name)
    if path is None:
        return _of_timm(name, shape, options)
    cfg = read_config(path)
    apply_options(cfg, options or {}, allow_new_keys)
    height, width = choose_shape(cfg, shape)
    if 'model' not in cfg:
        raise ValueError(f'{path}: expected a config with a model, got none')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    # Some networks read their rates from tensors while they are built, so it is built first and moved then.
    model = MODELS.build(cfg.model).to('meta')
    model.eval()  # some of mmdet's backbones do not return themselves
    return model, height, width


def _of_timm(name: str, shape: Sequence[int] | None, options: Mapping | None) -> tuple[nn.Module, int, int]:
    import timm

    if options:
        raise ValueError(f'--cfg-options: {name} is a model of timm, and has no config')
    model = timm.create_model(name).eval()
    height, width = shape or timm.data.resolve_model_data_config(model)['input_size'][1:]
    if shape and hasattr(model, 'set_input_size'):
        model.set_input_size(img_size=(height, width))
    return model.to('meta'), height, width


def choose_shape(cfg: Config, shape: Sequence[int] | None) -> tuple[int, int]:
    """(height, width) of the image.

    Raises:
        ValueError: There is none for a config of an unknown library.
    """
    scope = cfg.get('default_scope')
    if shape is None and scope not in SHAPES:
        raise ValueError(f'--shape HEIGHT WIDTH is needed for a config whose default_scope is {scope!r}')
    height, width = shape or SHAPES[scope]
    return height, width


def count(
    model: nn.Module, height: int, width: int, norms: bool, parts: Mapping[str, nn.Module] | None = None
) -> Complexity:
    """The cost of a forward pass of one image; the model is on the meta device, in evaluation mode.

    Raises:
        ValueError: A two-stage detector without a neck, or with several stages of box heads.
    """
    if hasattr(model, 'roi_head'):
        if not model.with_neck or isinstance(model.roi_head.bbox_head, nn.ModuleList):
            raise ValueError(
                'two-stage detectors are counted with a neck and one box head, as Mask R-CNN has them; '
                'of this one, --backbone counts the backbone'
            )
        return two_stage_complexity(model, height, width, norms=norms, parts=parts)
    return complexity(model, torch.empty(1, 3, height, width, device='meta'), norms=norms, parts=parts)


def parts_of(model: nn.Module, prefix: str = '') -> Iterator[tuple[str, nn.Module]]:
    """The parts that a model is made of, by their names: stem, stages, neck, heads."""
    for name, child in model.named_children():
        never_called = isinstance(child, nn.ModuleList | nn.ModuleDict)
        if never_called or (name in _OPENED and any(True for _ in child.children())):
            yield from parts_of(child, f'{prefix}{name}.')
        else:
            yield f'{prefix}{name}', child
