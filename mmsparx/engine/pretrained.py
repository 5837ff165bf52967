"""Pretrained weights that a config names in its model."""

import re
from collections.abc import Mapping, MutableMapping

from mmsparx.engine.common import named_dicts, type_name


def drop_pretrained(model: MutableMapping) -> list[str]:
    """Take the pretrained weights out of the config of a model, in place, wherever they are named in it.

    These are each `init_cfg` that loads a file, also in a list of several, and each `pretrained` of the libraries.

    Args:
        model: Config of a model, of any nesting.

    Returns:
        The settings that were changed, as dotted keys from 'model' on.
    """
    changed = []
    for place, node in named_dicts(model, 'model'):
        if _loads(given := node.get('init_cfg')):
            node['init_cfg'] = None
            changed.append(f'{place}.init_cfg')
        elif isinstance(given, (list, tuple)) and any(map(_loads, given)):
            node['init_cfg'] = [each for each in given if not _loads(each)] or None
            changed.append(f'{place}.init_cfg')
        if isinstance(given := node.get('pretrained'), str) or given is True:
            node['pretrained'] = False if given is True else None
            changed.append(f'{place}.pretrained')
    return changed


def _loads(init_cfg: object) -> bool:
    """Whether an initialisation reads a file: `Pretrained` of mmengine, and those of the libraries."""
    named = re.fullmatch(r'([\w.]+\.)?Pretrained\w*', type_name(init_cfg) or '')
    return isinstance(init_cfg, Mapping) and ('checkpoint' in init_cfg or named is not None)
