"""timm's form of config.json, for `timm.create_model('local-dir:FOLDER')` and 'hf-hub:OWNER/NAME'."""

from collections.abc import Mapping

from mmsparx.hub.names import PREFIXES

# timm's entries of config.json, which stand beside the arguments of the constructor.
TIMM_KEYS = (
    'architecture',
    'num_classes',
    'num_features',
    'global_pool',
    'model_args',
    'pretrained_cfg',
    'label_names',
    'label_descriptions',
)
_STAGES = 4
# Arguments of a backbone that say what its weights are, which timm's networks take under the same name.
_SHARED = ('style', 'token_mixer', 'aggregator', 'norm_cfg')
_DEFAULT_NORM = {'type': 'BN', 'requires_grad': True}
# Arguments of timm's classifiers that are not the backbone's.
_OF_THE_HEAD = ('num_classes', 'global_pool', 'drop_rate')


def is_timm_config(config: Mapping) -> bool:
    """Whether timm has written a config, and not this package."""
    return 'type' not in config and isinstance(config.get('architecture'), str)


def from_timm(config: Mapping, source: str, with_head: bool) -> dict:
    """timm's config of one of this package's networks -> that of a `SparXClassifier`.

    Args:
        config: Content of config.json.
        source: Name of the file, for messages.
        with_head: Whether the head is wanted, and not the backbone alone.

    Raises:
        ValueError: The config is of another network, or not as timm writes it; or a head that is wanted does not pool
            as that of a `SparXClassifier`.
    """
    name = config['architecture']
    family = next((cls for cls, prefix in PREFIXES.items() if name.startswith(f'{prefix}_')), None)
    if family is None:
        known = ', '.join(f'{prefix}_*' for prefix in PREFIXES.values())
        raise ValueError(f'{source}: expected an architecture of mmsparx, one of {known}, got {name[:100]!r}')
    given, described = config.get('model_args', {}), config.get('pretrained_cfg', {})
    if not isinstance(given, dict) or not isinstance(described, dict):
        raise ValueError(f'{source}: expected model_args and pretrained_cfg to be objects, as timm writes them')
    if with_head and (pool := given.get('global_pool', config.get('global_pool', 'avg'))) != 'avg':
        raise ValueError(
            f"{source}: expected a classifier with global_pool='avg', got {str(pool)[:100]!r}; "
            "timm.create_model('local-dir:...') reads it"
        )
    size = described.get('input_size')
    channels = given.get('in_chans', size[0] if isinstance(size, list) and size else 3)
    backbone = {key: x for key, x in given.items() if key not in (*_OF_THE_HEAD, 'in_chans')}
    return {
        'type': 'SparXClassifier',
        'backbone': {
            'arch': name.removeprefix(f'{PREFIXES[family]}_'),
            **backbone,
            'type': family,
            'in_channels': channels,
            'out_indices': [_STAGES - 1],
            'output_norm': False,
        },
        'num_classes': given.get('num_classes', config.get('num_classes', 1000)),
    }


def to_timm(config: Mapping, channels: tuple[int, ...], last: int) -> dict:
    """A config of this package -> the entries by which timm builds the network; {} where it cannot.

    Args:
        config: Config of a backbone or a classifier.
        channels: Channels of the backbone's stages.
        last: Number of the last stage that is built, counted from 0.
    """
    backbone = config.get('backbone', config)
    prefix = PREFIXES.get(backbone['type'])
    if prefix is None or len(channels) != _STAGES or last != _STAGES - 1:
        return {}
    arch = backbone.get('arch', 'tiny')
    named = isinstance(arch, str)
    classes = config['num_classes'] if 'backbone' in config else 0
    given = {'in_chans': backbone.get('in_channels', 3), 'num_classes': classes, 'global_pool': 'avg'}
    return {
        'architecture': f'{prefix}_{arch if named else "tiny"}',
        'num_classes': classes,
        'num_features': channels[-1],
        'global_pool': 'avg',
        'model_args': {
            **given,
            **({} if named else {'arch': arch}),
            **{key: backbone[key] for key in _SHARED if backbone.get(key) not in (None, _DEFAULT_NORM)},
        },
        'pretrained_cfg': {'num_classes': classes, 'input_size': [given['in_chans'], 224, 224]},
    }
