"""Models of mmdet's and mmseg's base configs over a small SparX-Mamba, and their losses."""

import pytest
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, init_default_scope

from helpers import SMALL_ARCH

CHANNELS = list(SMALL_ARCH['channels'])


def build(library, base, out_indices=(0, 1, 2, 3), neck=None, **model):
    """A model of a library's base config over a small SparX-Mamba.

    Args:
        library: 'mmdet' or 'mmseg'.
        base: Path of the config among those of the library.
        out_indices: Stages that the neck gets.
        neck: Settings of the neck, or of the first of several, to change.
        **model: Settings of the model to merge into it.
    """
    package = pytest.importorskip(library, reason=f'the base configs are of {library}')
    config = Config.fromfile(f'{package.__path__[0]}/.mim/configs/{base}')
    config.merge_from_dict({'model': model})
    cfg = config.model
    first = cfg.neck[0] if isinstance(cfg.neck, list) else cfg.neck
    first.update({'in_channels': [CHANNELS[i] for i in out_indices], **(neck or {})})
    cfg.backbone = dict(type='mmsparx.SparXMamba', arch=SMALL_ARCH, out_indices=out_indices)
    init_default_scope(library)
    built = MODELS.build(cfg)
    built.init_weights()  # until then, parameters of mmdet's transformers are uninitialised memory
    return built


def detection_batch(model, with_mask=True):
    """Two small images with objects of four classes, as a detector's data_preprocessor gives them."""
    from mmdet.testing import demo_mm_inputs

    inputs = demo_mm_inputs(2, [[3, 64, 96]] * 2, num_classes=4, with_mask=with_mask)
    return model.data_preprocessor(inputs, training=True)


def train_step(model, batch):
    """The summed loss of a batch, and the names of the parameters without a gradient after its backward pass."""
    MessageHub.get_current_instance().update_info('epoch', 0)  # TOOD's head reads it
    loss, _ = model.parse_losses(model(**batch, mode='loss'))
    loss.backward()
    return loss.item(), {name for name, p in model.named_parameters() if p.grad is None}
