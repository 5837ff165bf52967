"""What the tests of every task's configs share."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from helpers import oracle_shapes
from mmsparx.weights.names import SPARX

CONFIGS = Path(__file__).parents[2] / 'configs'


def library_config(library, name: str) -> Config:
    """A config that an OpenMMLab package ships."""
    return Config.fromfile(Path(library.__file__).parent / '.mim/configs' / name)


def build(cfg: Config) -> nn.Module:
    """The model on the meta device, where no weights are drawn."""
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def assert_published_decay(cfg: Config) -> None:
    """The published runs matched 'norm' against their names, in which batch norms have none; `cfg` is of a T."""
    model = build(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = {names[id(p)]: group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    assert decays.keys() == dict(model.named_parameters()).keys()
    published = {
        SPARX.to_published(name.removeprefix('backbone.')): decay
        for name, decay in decays.items()
        if name.startswith('backbone.')
    }
    left_out = ('running_mean', 'running_var', 'num_batches_tracked')
    if not cfg.model.backbone.aggregator.learnable_scale:
        left_out += ('.scale',)
    expected = oracle_shapes('t') | oracle_shapes('t_detection_extra')
    expected = {name for name in expected if not name.startswith('classifier.') and not name.endswith(left_out)}
    assert published.keys() == expected
    assert {name for name, decay in published.items() if decay == 0} == {name for name in expected if 'norm' in name}
    assert set(decays.values()) == {0, cfg.optim_wrapper.optimizer.weight_decay}
    assert not [name for name, decay in decays.items() if decay == 0 and not name.startswith('backbone.')]
