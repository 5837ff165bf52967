"""Exported files with what is known of the model: preparation of images, classes."""

from collections.abc import Mapping

from mmengine.config import Config

from mmsparx.cli.named_model import NamedModel
from mmsparx.cli.preprocessing import test_pipeline
from mmsparx.export import Exported, export


def export_named(model: NamedModel, file: str, *, backbone: bool = False, **options) -> Exported:
    """Export a model with its description.

    Args:
        model: Model, with its config.
        file: File to write.
        backbone: Whether its backbone is exported, and not all of it.
        **options: Options of `mmsparx.export.export`.

    Raises:
        ValueError: The model has no backbone of this package, or see `mmsparx.export.export`.
    """
    module = model.module
    if backbone:
        module = model.backbone
        if module is None:
            raise ValueError(
                f'--backbone: expected a model over one network of mmsparx, got {type(model.module).__name__}'
            )
    with model.scope():
        return export(module, file, description=describe(model), **options)


def describe(model: NamedModel) -> dict:
    """The facts that a user of the file needs, in types of JSON.

    'channels' is the order that the file takes them in, 'mean' and 'std' are in that order and of values from 0 to 255;
    'resize' are the steps before; 'classes' and 'palette' are there where they are known.
    """
    given = model.preprocessing
    order = -1 if given.bgr else 1
    about = {
        'name': model.name,
        'channels': 'BGR' if given.bgr else 'RGB',
        'mean': list(given.mean)[::order],
        'std': list(given.std)[::order],
    }
    if model.config is None:
        return about
    about['resize'] = [step for each in test_pipeline(model.config) if (step := _step(each))]
    if model.classes is not None:
        about['classes'] = list(model.classes)
        palette = [[int(value) for value in colour] for colour in model.palette or ()]
        valid = all(len(colour) == 3 and all(0 <= value <= 255 for value in colour) for colour in palette)
        if valid and len(palette) == len(model.classes):
            about['palette'] = palette
    about.update(_test_settings(model.config))
    return about


def _step(step: Mapping) -> dict | None:
    """A step of a test pipeline that changes the size; None for those that do not."""
    kind = str(step['type']).rpartition('.')[2]
    options = {key: step[key] for key in ('interpolation', 'backend') if step.get(key) is not None}
    if kind == 'Resize' and 'scale' in step:
        scale = step['scale']
        scale = [scale, scale] if isinstance(scale, int) else list(scale)
        return {'step': 'resize', 'scale': scale, 'keep_ratio': bool(step.get('keep_ratio', False)), **options}
    if kind == 'ResizeEdge':
        return {'step': 'resize_edge', 'scale': int(step['scale']), 'edge': step.get('edge', 'short'), **options}
    if kind == 'CenterCrop':
        size = step['crop_size']
        return {'step': 'center_crop', 'size': [size, size] if isinstance(size, int) else list(size)}
    if kind == 'ResizeToMultiple':
        return {'step': 'resize_to_multiple', 'divisor': int(step.get('size_divisor', 32))}
    if kind in ('LoadImageFromFile', 'LoadAnnotations', 'PackInputs', 'PackSegInputs', 'PackDetInputs'):
        return None
    raise ValueError(f'export: expected a test pipeline of resizing and cropping, got a step {kind}')


def _test_settings(cfg: Config) -> dict:
    """The processing of the outputs, by the config."""
    settings = cfg.model.get('test_cfg') or {}
    head = cfg.model.get('decode_head') or {}
    found = {}
    if isinstance(head, Mapping) and head:  # several heads are refused by the export
        found['align_corners'] = bool(head.get('align_corners', False))
        if settings.get('mode') == 'slide':
            found['slide'] = {'crop': list(settings['crop_size']), 'stride': list(settings['stride'])}
    if 'mask_thr_binary' in settings.get('rcnn', {}):
        found['mask_threshold'] = settings['rcnn']['mask_thr_binary']
    return found
