"""Helpers shared by the tests of all tasks' configs."""

from functools import cache
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from helpers import oracle_shapes
from mmsparx.weights.names import SPARX

CONFIGS = Path(__file__).parents[2] / 'configs'
TABLE = CONFIGS.parent / 'docs/paper_against_counted.md'
# Settings that differ between the leaves of a task by design: those in the bases of a size, and a model's parts.
SIZE = ('backbone', 'channels', 'init_cfg', 'no_pretrained_weights', 'paramwise_cfg', 'stages')


def library_config(library, name: str) -> Config:
    """A config that an OpenMMLab package ships."""
    return Config.fromfile(Path(library.__file__).parent / '.mim/configs' / name)


def build(cfg: Config) -> nn.Module:
    """The model on the meta device, where no weights are drawn."""
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        return MODELS.build(cfg.model)


@cache
def committed_table() -> dict[str, list[str]]:
    """The cells of the rows of docs/paper_against_counted.md, by the name of the config."""
    rows = [line.strip('| ').split(' | ') for line in TABLE.read_text().splitlines() if line.startswith('| ')]
    return {cells[0]: cells for cells in rows[2:]}


def assert_committed_parameters(name: str, model: nn.Module) -> None:
    """Assert that the table has the parameters of a config's model, if it is one of the paper."""
    row = committed_table().get(Path(name).stem)
    if row is not None:
        assert row[2] == f'{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f}'


def recipe(cfg: Config) -> dict:
    """Settings that all leaves of a task and a schedule share: all but the backbone and its channels."""
    shared = {key: value for key, value in cfg.to_dict().items() if key not in SIZE}
    model = shared['model']
    backbone = model.pop('backbone')
    for part in ['neck'] if model.get('neck') else ['head', 'decode_head', 'auxiliary_head']:
        for key in ('in_channels', 'style'):
            model.get(part, {}).pop(key, None)
    return shared | {key: backbone.get(key) for key in ('out_indices', 'output_norm', 'norm_cfg')}


def weight_decays(cfg: Config) -> dict[str, float]:
    """The weight decay of each parameter, by its name."""
    model = build(cfg)
    wrapper = {**cfg.optim_wrapper, 'type': 'OptimWrapper'}  # AMP's wrapper requires a GPU
    optimizer = build_optim_wrapper(model, wrapper).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = {names[id(p)]: group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    assert decays.keys() == dict(model.named_parameters()).keys()
    return decays


def assert_published_decay(cfg: Config) -> None:
    """Assert the decay of the published runs, which matched 'norm' against their names; `cfg` is a config of T."""
    decays = weight_decays(cfg)
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
