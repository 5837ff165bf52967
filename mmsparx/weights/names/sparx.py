"""The names of SparX networks.

>>> SPARX.to_ours('layers.2.blocks.0.op.d_norm.weight')
'stages.2.layers.0.mixer.in_proj.source_norm.weight'
>>> SPARX.to_published('head.fc.bias')
'classifier.3.bias'
"""

import re

from mmsparx.weights.names.base import NameMap

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
_PUBLISHED_MIXER = {ours: f'op.{theirs}' for theirs, ours in _MIXER.items()}
_PUBLISHED_AGGREGATOR = {ours: f'op.{theirs}' for theirs, ours in _AGGREGATOR.items()}
_PUBLISHED_LAYER = {ours: theirs for theirs, ours in _LAYER.items()}


class SparXNames(NameMap):
    """Names of `SparXMamba`'s published checkpoints."""

    family = 'SparX'
    # Under our names a layer's mixer; under the published ones its position encoding, or a ganglion layer's sources,
    # as a network without position encoding has them, too.
    layer = re.compile(
        r'(|.*?\.)(?:stages\.\d+\.layers\.\d+\.mixer|layers\.\d+\.blocks\.\d+\.(?:pos_embed|op\.d_norm))\.'
    )
    published = re.compile(r'patch_embed\.|layers\.\d+\.blocks\.')
    head = frozenset(f'{part}.{leaf}' for part in _HEAD.values() for leaf in ('weight', 'bias'))

    def to_ours(self, name: str) -> str | None:
        if name.startswith('patch_embed.'):
            return 'stem.' + name.removeprefix('patch_embed.')
        if match := re.fullmatch(r'norm\.(\d+)\.(weight|bias)', name):
            return f'out_norms.{match[1]}.{match[2]}'
        if match := re.fullmatch(r'(classifier\.\d+)\.(.+)', name):
            return f'{_HEAD[match[1]]}.{match[2]}' if match[1] in _HEAD else None
        # The published networks keep a downsampling in the stage before it, ours in the one that it leads to.
        if match := re.fullmatch(r'layers\.(\d+)\.downsample\.(.+)', name):
            return f'stages.{int(match[1]) + 1}.downsample.{match[2]}'
        if match := re.fullmatch(r'layers\.(\d+)\.blocks\.(\d+)\.(.+)', name):
            try:
                return f'stages.{match[1]}.layers.{match[2]}.{_ours_in_layer(match[3])}'
            except KeyError:
                return None
        return None

    def to_published(self, name: str) -> str | None:
        if name.startswith('stem.'):
            return 'patch_embed.' + name.removeprefix('stem.')
        if name.startswith('out_norms.'):
            return 'norm.' + name.removeprefix('out_norms.')
        for theirs, ours in _HEAD.items():
            if name.startswith(ours + '.'):
                return theirs + name.removeprefix(ours)
        if match := re.fullmatch(r'stages\.([1-9]\d*)\.downsample\.(.+)', name):
            return f'layers.{int(match[1]) - 1}.downsample.{match[2]}'
        if match := re.fullmatch(r'stages\.(\d+)\.layers\.(\d+)\.(.+)', name):
            try:
                return f'layers.{match[1]}.blocks.{match[2]}.{_published_in_layer(match[3])}'
            except KeyError:
                return None
        return None


def _ours_in_layer(rest: str) -> str:
    part, _, tail = rest.partition('.')
    if part in _LAYER and tail:
        return f'{_LAYER[part]}.{tail}'
    if part != 'op':
        raise KeyError(rest)
    part, _, tail = tail.partition('.')
    if part == 'in_proj' and tail:
        # A ganglion layer's is a Sequential, a normal layer's one convolution.
        return f'mixer.in_proj.mix.{tail}' if tail[0].isdigit() else f'mixer.in_proj.{tail}'
    inside = f'mixer.in_proj.{_AGGREGATOR[part]}' if part in _AGGREGATOR else f'mixer.{_MIXER[part]}'
    return f'{inside}.{tail}' if tail else inside


def _published_in_layer(rest: str) -> str:
    if rest.startswith('mixer.in_proj.'):
        part, _, tail = rest.removeprefix('mixer.in_proj.').partition('.')
        name = 'op.in_proj' if part == 'mix' else _PUBLISHED_AGGREGATOR.get(part, f'op.in_proj.{part}')
    elif rest.startswith('mixer.'):
        part, _, tail = rest.removeprefix('mixer.').partition('.')
        name = _PUBLISHED_MIXER[part]
    else:
        part, _, tail = rest.partition('.')
        name = _PUBLISHED_LAYER[part]
    return f'{name}.{tail}' if tail else name


SPARX = SparXNames()
