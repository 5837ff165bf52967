"""Parameter names: the published checkpoints' and ours. Pure Python.

The two are in one-to-one correspondence for a network and its classification head:

    >>> to_ours('layers.2.blocks.0.op.d_norm.weight')
    'stages.2.layers.0.mixer.in_proj.source_norm.weight'
    >>> to_published('head.fc.bias')
    'classifier.3.bias'
"""

import re
from collections.abc import Iterable

_MIXER = {
    'conv2d': 'conv',
    'x_proj_weight': 'x_proj_weight',
    'dt_projs_weight': 'dt_proj_weight',
    'dt_projs_bias': 'dt_proj_bias',
    'A_logs': 'A_log',
    'Ds': 'D',
    'out_norm': 'out_norm',
    'out_proj': 'out_proj',
}
_AGGREGATOR = {'d_norm': 'source_norm', 'd_proj': 'source_proj', 'q': 'q', 'k': 'k', 'v': 'v', 'scale': 'scale'}
_LAYER = {
    'pos_embed': 'position',
    'norm': 'norm1',
    'norm2': 'norm2',
    'mlp': 'ffn',
    'layerscale_1': 'scale1',
    'layerscale_2': 'scale2',
}
_HEAD = {'classifier.0': 'head.norm', 'classifier.3': 'head.fc'}


def _ours_in_layer(rest: str) -> str:
    part, _, tail = rest.partition('.')
    if part in _LAYER and tail:
        return f'{_LAYER[part]}.{tail}'
    if part != 'op':
        raise KeyError(rest)
    part, _, tail = tail.partition('.')
    if part == 'in_proj' and tail:
        # A ganglion layer's is a Sequential, a normal layer's one convolution.
        return f'mixer.in_proj.fuse.{tail}' if tail[0].isdigit() else f'mixer.in_proj.{tail}'
    inside = f'mixer.in_proj.{_AGGREGATOR[part]}' if part in _AGGREGATOR else f'mixer.{_MIXER[part]}'
    return f'{inside}.{tail}' if tail else inside


def to_ours(name: str) -> str | None:
    """Our name of a published parameter or buffer; None if it is not a published name."""
    if name.startswith('patch_embed.'):
        return 'stem.' + name.removeprefix('patch_embed.')
    if match := re.fullmatch(r'norm\.(\d+)\.(weight|bias)', name):
        return f'out_norms.{match[1]}.{match[2]}'
    if match := re.fullmatch(r'(classifier\.\d+)\.(.+)', name):
        return f'{_HEAD[match[1]]}.{match[2]}' if match[1] in _HEAD else None
    if match := re.fullmatch(r'layers\.(\d+)\.downsample\.(.+)', name):
        return f'stages.{match[1]}.downsample.{match[2]}'
    if match := re.fullmatch(r'layers\.(\d+)\.blocks\.(\d+)\.(.+)', name):
        try:
            return f'stages.{match[1]}.layers.{match[2]}.{_ours_in_layer(match[3])}'
        except KeyError:
            return None
    return None


def _published_in_layer(rest: str) -> str:
    mixer = {ours: f'op.{theirs}' for theirs, ours in _MIXER.items()}
    aggregator = {ours: f'op.{theirs}' for theirs, ours in _AGGREGATOR.items()}
    if rest.startswith('mixer.in_proj.'):
        part, _, tail = rest.removeprefix('mixer.in_proj.').partition('.')
        name = 'op.in_proj' if part == 'fuse' else aggregator.get(part, f'op.in_proj.{part}')
    elif rest.startswith('mixer.'):
        part, _, tail = rest.removeprefix('mixer.').partition('.')
        name = mixer[part]
    else:
        part, _, tail = rest.partition('.')
        name = {ours: theirs for theirs, ours in _LAYER.items()}[part]
    return f'{name}.{tail}' if tail else name


def to_published(name: str) -> str | None:
    """The published name of a parameter or buffer of ours; None if it has none."""
    if name.startswith('stem.'):
        return 'patch_embed.' + name.removeprefix('stem.')
    if name.startswith('out_norms.'):
        return 'norm.' + name.removeprefix('out_norms.')
    for theirs, ours in _HEAD.items():
        if name.startswith(ours + '.'):
            return theirs + name.removeprefix(ours)
    if match := re.fullmatch(r'stages\.(\d+)\.downsample\.(.+)', name):
        return f'layers.{match[1]}.downsample.{match[2]}'
    if match := re.fullmatch(r'stages\.(\d+)\.layers\.(\d+)\.(.+)', name):
        try:
            return f'layers.{match[1]}.blocks.{match[2]}.{_published_in_layer(match[3])}'
        except KeyError:
            return None
    return None


def is_published(names: Iterable[str]) -> bool:
    """Whether these are a published checkpoint's names, rather than ours or another network's."""
    return any(name.startswith('patch_embed.') or re.match(r'layers\.\d+\.blocks\.', name) for name in names)


# What no other network has: under our names a layer's mixer, under the published ones its position encoding.
_IN_A_LAYER = re.compile(r'(|.*?\.)(?:stages\.\d+\.layers\.\d+\.mixer|layers\.\d+\.blocks\.\d+\.pos_embed)\.')
_CLASSIFIER_HEAD = {f'{part}.{leaf}' for part in _HEAD.values() for leaf in ('weight', 'bias')}


def backbone_prefixes(names: Iterable[str]) -> list[str]:
    """Where SparX backbones stand in a model or a file: ['backbone.'] in most, [''] for a backbone itself."""
    return sorted({match[1] for name in names if (match := _IN_A_LAYER.match(name))})


def convert_names(names: Iterable[str], to: str) -> dict[str, str]:
    """Each name of a file -> its name in the other style, in order; names of that style stay.

    A classifier's file is flat under the published names, and a `SparXClassifier`'s (`backbone.`,
    `head.`) under ours. In the files of other models, what is outside of the backbone stays.

    Args:
        names: all names of the file.
        to: 'ours' or 'published'.

    Raises:
        ValueError: no SparX backbone is among them, or some of its names have no counterpart, which
            are listed.
    """
    styles = {'ours': (to_ours, to_published), 'published': (to_published, to_ours)}
    if to not in styles:
        raise ValueError(f"to: expected 'ours' or 'published', got {to!r}")
    rename, back = styles[to]
    names = list(names)
    prefixes = backbone_prefixes(names)
    if not prefixes:
        raise ValueError(f'no SparX backbone is in the file; its names begin with: {", ".join(names[:4])}')
    if is_published(name.removeprefix(prefixes[0]) for name in names) == (to == 'published'):
        return {name: name for name in names}
    outside = {name for name in names if not name.startswith(tuple(prefixes))}
    flatten = to == 'published' and prefixes == ['backbone.'] and outside == _CLASSIFIER_HEAD
    renamed, lost = {}, []
    for name in names:
        prefix = '' if flatten else next((p for p in prefixes if name.startswith(p)), None)
        if prefix is None:
            renamed[name] = name
            continue
        inside = name.removeprefix('backbone.' if flatten else prefix)
        new = rename(inside)
        if new is None or back(new) != inside:
            lost.append(name)
        else:
            renamed[name] = prefix + new
    if lost:
        raise ValueError(f'{len(lost)} names have no counterpart among {to} names: {", ".join(lost)}')
    if to == 'ours' and prefixes == [''] and _CLASSIFIER_HEAD & set(renamed.values()):
        return {name: new if new in _CLASSIFIER_HEAD else f'backbone.{new}' for name, new in renamed.items()}
    return renamed
