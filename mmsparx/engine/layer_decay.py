"""Learning rates that decay from layer to layer of a backbone, in the models of every library."""

import inspect
from collections.abc import Callable
from numbers import Real

from mmengine.config import Config
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmsparx.engine.arguments import find_backbone, find_classes
from mmsparx.engine.common import type_name
from mmsparx.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmsparx.weights.contents import strip_wrappers


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor, whose learning rates decay from the last layer of a backbone to its stem.

    Every backbone counts that says the depth of its parameters by `get_layer_depth(name, prefix)`: those of this
    package and of mmpretrain, wherever they stand in a model. mmpretrain's own constructor asks the whole model, of
    which only classifiers answer; mmdet's and mmseg's know the names of ConvNeXt, BEiT and MAE alone.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, whose optimizer has a learning rate.
        paramwise_cfg: `layer_decay_rate`, from 0 to 1: a parameter of depth d of n has the learning rate times
            `layer_decay_rate ** (n - 1 - d)`, and what is outside of the backbones keeps it. All other options are
            those of mmengine's `DefaultOptimWrapperConstructor`; of a parameter with an `lr_mult`, both factors count.

    Raises:
        ValueError: There is no decay rate from 0 to 1, or no learning rate; when called, the model has no such
            backbone.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if not isinstance(rate, Real) or not 0 < rate <= 1:
            raise ValueError(
                'optim_wrapper.paramwise_cfg: expected layer_decay_rate, a number above 0 and up to 1, as in '
                f'dict(layer_decay_rate=0.9), got {self.paramwise_cfg}'
            )
        if self.base_lr is None:
            raise ValueError('optim_wrapper.optimizer: expected the learning rate lr, which decays; got none')

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **options) -> None:
        """Add a group for each parameter; see mmengine's."""
        super().add_params(params, module, prefix, **options)
        if prefix:  # within the model, which ends with all its groups
            return
        depths = _depths(module)
        names = {parameter: strip_wrappers(name) for name, parameter in module.named_parameters()}
        for group in params:
            (parameter,) = group['params']
            place = max((place for place in depths if names[parameter].startswith(place)), key=len, default=None)
            depth, count = (0, 1) if place is None else depths[place](names[parameter], place)
            group['lr_scale'] = self.paramwise_cfg['layer_decay_rate'] ** (count - 1 - depth)
            group['lr'] = group.get('lr', self.base_lr) * group['lr_scale']


def _depths(model: nn.Module) -> dict[str, Callable]:
    """The `get_layer_depth` of each backbone in a model, by the prefix of its names."""
    found = {}
    for name, module in model.named_modules():
        depth = getattr(module, 'get_layer_depth', None)
        if depth is not None and 'prefix' in inspect.signature(depth).parameters:
            place = strip_wrappers(name)
            found[f'{place}.' if place else ''] = depth
    if not found:
        raise ValueError(
            f'{type(model).__name__} has no backbone with get_layer_depth(name, prefix), by which its learning rates '
            'decay. Those of mmsparx and of mmpretrain have it; with another one leave optim_wrapper.constructor out'
        )
    return found


_OURS = f'mmsparx.{LayerDecayOptimWrapperConstructor.__name__}'
# The option that holds the rate, by the name of a library's constructor.
_OF_LIBRARIES = {
    'LearningRateDecayOptimizerConstructor': 'decay_rate',
    'LayerDecayOptimizerConstructor': 'layer_decay_rate',
    'LearningRateDecayOptimWrapperConstructor': 'layer_decay_rate',
}


def check_layer_decay(cfg: Config) -> None:
    """Fail before a model is built where a library's constructor does not know the layers of this package's backbone.

    Raises:
        ValueError: Has the settings that do the same.
    """
    optim_wrapper, scope = cfg.get('optim_wrapper') or {}, cfg.get('default_scope')
    given = optim_wrapper.get('constructor')
    name = (type_name({'type': given}) or '').rpartition('.')[2]
    if name not in _OF_LIBRARIES or type_name(cfg.get('model')) is None:
        return
    asks_model = name == 'LearningRateDecayOptimWrapperConstructor'
    knows = asks_model and any(hasattr(x, 'get_layer_depth') for x in find_classes(cfg.model.type, 'model', scope))
    found = find_backbone(cfg)
    if found is None or knows:
        return
    place, backbone = found
    rate = (optim_wrapper.get('paramwise_cfg') or {}).get(_OF_LIBRARIES[name], 0.9)
    said = f'asks {type_name(cfg.model)}, which does not say,' if asks_model else 'knows those of other networks alone,'
    raise ValueError(
        f'optim_wrapper.constructor: {name} needs the depth of each layer; it {said} and {place} is '
        f"{backbone.__name__}. Set constructor='{_OURS}', paramwise_cfg=dict(_delete_=True, layer_decay_rate={rate}, "
        'norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0), which knows it in every model. There each '
        'layer has a depth of its own, so that a rate for fewer depths is to be raised'
    )
