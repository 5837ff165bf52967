"""The package's registries.

`MODELS`, `HOOKS`, `TRANSFORMS` and `OPTIM_WRAPPER_CONSTRUCTORS` are children of mmengine's roots, so
`type='mmsparx.Name'` is found from every scope: mmengine imports this module when it meets the scope, and the
locations below when it looks the name up. Backbones are registered in mmengine's root too (`register_backbone`), so
that the bare name works in mmdet, mmseg and mmpretrain once `mmsparx.models` is imported.

`TOKEN_MIXERS` and `AGGREGATORS` hold what a network is composed of. They are read with
`factory`, not with `Registry.build`, which would search the scope of whichever library builds
the network.

Importing this module does not secure mmengine's loading of checkpoints; the locations do, which import
`mmsparx.weights`.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import partial

from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import Registry
from mmengine.utils import get_object_from_string

__all__ = [
    'AGGREGATORS',
    'HOOKS',
    'MODELS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'TOKEN_MIXERS',
    'TRANSFORMS',
    'factory',
    'lookup',
    'register_backbone',
]

MODELS = Registry('model', parent=ROOT_MODELS, scope='mmsparx', locations=['mmsparx.models'])
HOOKS = Registry('hook', parent=ROOT_HOOKS, scope='mmsparx', locations=['mmsparx.engine'])
TRANSFORMS = Registry('transform', parent=ROOT_TRANSFORMS, scope='mmsparx', locations=['mmsparx.datasets'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=ROOT_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmsparx',
    locations=['mmsparx.engine'],
)
TOKEN_MIXERS = Registry('token mixer', scope='mmsparx', locations=['mmsparx.layers.mixers'])
AGGREGATORS = Registry('aggregator', scope='mmsparx', locations=['mmsparx.layers.aggregators'])


def register_backbone(cls: type) -> type:
    """Register a backbone as `mmsparx.Name` and, in mmengine's root, as `Name`.

    Where another package has taken the bare name, it keeps it, with a warning.
    """
    MODELS.register_module(module=cls)
    if other := ROOT_MODELS.module_dict.get(cls.__name__):
        warnings.warn(
            f"mmengine's root registry has a {cls.__name__} of {other.__module__}, which type={cls.__name__!r} stays; "
            f"for that of mmsparx write type='mmsparx.{cls.__name__}'",
            stacklevel=2,
        )
    else:
        ROOT_MODELS.register_module(module=cls)
    return cls


def lookup(registry: Registry, name: str | type) -> type:
    """The class registered under `name`; a class, or its full path, stands for itself.

    The latter two are what mmengine's pure-Python configs hold, before and after they are dumped.

    Raises:
        ValueError: nothing is registered under that name; the message lists what is.
    """
    if isinstance(name, type):
        return name
    registry.import_from_location()
    if name not in registry.module_dict:
        if isinstance(name, str) and isinstance(found := get_object_from_string(name), type):
            return found
        known = ', '.join(sorted(registry.module_dict))
        raise ValueError(f'unknown {registry.name} {name!r}; known ones: {known}')
    return registry.module_dict[name]


def factory(registry: Registry, option: str, cfg: Mapping, **given) -> Callable:
    """The class that a config names, with its options and those that the network gives already applied.

    Args:
        registry: Registry that holds the class.
        option: Name of the network's argument that holds the config, for messages.
        cfg: Dict of a `type`, as `lookup` takes it, and options of the class.
        **given: Options that the network sets and the config may not hold.

    Returns:
        A callable that takes what the class still needs.

    Raises:
        ValueError: the config has no type, or holds an option of the network; or see `lookup`.
    """
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        raise ValueError(f"{option}: expected a dict with a 'type', got {cfg!r}")
    options = dict(cfg)
    cls = lookup(registry, options.pop('type'))
    if twice := sorted(given.keys() & options.keys()):
        raise ValueError(f'{option}: {", ".join(twice)} is set by the network, from arch and norm_cfg; got {dict(cfg)}')
    return partial(cls, **given, **options)
