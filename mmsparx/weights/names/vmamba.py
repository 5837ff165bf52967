"""The names of VMamba networks.

>>> VMAMBA.to_ours('layers.2.blocks.0.op.x_proj_weight')
'stages.2.layers.0.mixer.x_proj_weight'
>>> VMAMBA.to_published('head.fc.bias')
'classifier.head.bias'
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mmsparx.weights.names.base import NameMap

if TYPE_CHECKING:
    from torch import Tensor

DIRECTIONS = 4

# Published names, ours, the {part} of each by the published one, and what is added to the index of the stage: our
# downsampling is in the stage that it leads to.
_RULES = (
    ('patch_embed.{part}.{leaf}', 'stem.{part}.{leaf}', {'0': '0', '2': '1', '5': '3', '7': '4'}, 0),
    ('layers.{stage}.downsample.{part}.{leaf}', 'stages.{stage}.downsample.{part}.{leaf}', {'1': '0', '3': '1'}, 1),
    (
        'layers.{stage}.blocks.{layer}.{part}.{leaf}',
        'stages.{stage}.layers.{layer}.{part}.{leaf}',
        {
            'norm': 'norm1',
            'norm2': 'norm2',
            'mlp.fc1': 'ffn.fc1',
            'mlp.fc2': 'ffn.fc2',
            'op.in_proj': 'mixer.in_proj',
            'op.conv2d': 'mixer.conv',
            'op.out_norm': 'mixer.out_norm',
            'op.out_proj': 'mixer.out_proj',
        },
        0,
    ),
    (
        'layers.{stage}.blocks.{layer}.{part}',
        'stages.{stage}.layers.{layer}.{part}',
        {
            'op.x_proj_weight': 'mixer.x_proj_weight',
            'op.dt_projs_weight': 'mixer.dt_proj_weight',
            'op.dt_projs_bias': 'mixer.dt_proj_bias',
            'op.A_logs': 'mixer.A_log',
            'op.Ds': 'mixer.D',
        },
        0,
    ),
    ('outnorm{stage}.{leaf}', 'out_norms.{stage}.{leaf}', {}, 0),
    ('{part}.{leaf}', '{part}.{leaf}', {'classifier.norm': 'head.norm', 'classifier.head': 'head.fc'}, 0),
)
_PIECES = {'stage': r'\d+', 'layer': r'\d+', 'part': r'[\w.]+', 'leaf': 'weight|bias'}
# Names of two of them in VMamba's newer code.
_SPELLINGS = {'.op.x_proj.weight': '.op.x_proj_weight', '.op.dt_projs.weight': '.op.dt_projs_weight'}

_IN_A_LAYER = r'(?:.*\.)?(?:stages\.\d+\.layers|layers\.\d+\.blocks)\.\d+\.'
_PROJECTION = re.compile(_IN_A_LAYER + r'(?:(?:mixer|op)\.(?:in|out)_proj|(?:ffn|mlp)\.fc[12])\.weight')
_STEP_INPUT = re.compile(_IN_A_LAYER + r'(?:mixer|op)\.x_proj_weight')
_STEP = re.compile(_IN_A_LAYER + r'mixer\.dt_proj_weight')


class VMambaNames(NameMap):
    """Names of `VMamba`'s published checkpoints, in the spellings of the released files and of the newer code.

    Their values are stored in several shapes: the projections as (out, in) or (out, in, 1, 1), `x_proj` as
    (4, R + 2 n, D) or (4 (R + 2 n), D), `dt_projs` as (4, D, R) or (4 D, R). Published names get the first.
    """

    family = 'VMamba'
    # The stem alone tells VMamba from SparX by its names: its second convolution has a bias, which Swin's stem does not
    # have, either, and under published names its norms have other places.
    layer = re.compile(r'(|.*?\.)(?:stem\.3\.bias$|patch_embed\.2\.)')
    published = re.compile(r'patch_embed\.|layers\.\d+\.blocks\.|outnorm\d+\.')
    head = frozenset(f'head.{part}.{leaf}' for part in ('norm', 'fc') for leaf in ('weight', 'bias'))

    def to_ours(self, name: str) -> str | None:
        return _first(_translate(self.spelling(name), *rule) for rule in _RULES)

    def to_published(self, name: str) -> str | None:
        return _first(
            _translate(name, ours, theirs, {part: key for key, part in parts.items()}, -shift)
            for theirs, ours, parts, shift in _RULES
        )

    def spelling(self, name: str) -> str:
        end = next((end for end in _SPELLINGS if name.endswith(end)), None)
        return name if end is None else name.removesuffix(end) + _SPELLINGS[end]

    def to_our_value(self, name: str, value: Tensor) -> Tensor:
        if _PROJECTION.fullmatch(name) and value.dim() == 2:
            return value[:, :, None, None]
        if _STEP_INPUT.fullmatch(name):
            if value.dim() == 3 and value.shape[0] == DIRECTIONS:
                value = value.flatten(0, 1)
            return value.unsqueeze(-1) if value.dim() == 2 else value
        if _STEP.fullmatch(name) and value.dim() == 2 and value.shape[0] % DIRECTIONS == 0:
            return value.unflatten(0, (DIRECTIONS, -1))
        return value

    def to_published_value(self, name: str, value: Tensor) -> Tensor:
        if _PROJECTION.fullmatch(name):
            return value.flatten(1)
        if _STEP_INPUT.fullmatch(name) and value.shape[-1] == 1:
            return value.squeeze(-1).unflatten(0, (DIRECTIONS, -1))
        return value


def _translate(name: str, pattern: str, template: str, parts: Mapping[str, str], shift: int) -> str | None:
    """A name in the form of `pattern` in that of `template`; None if it is another."""
    regex = re.escape(pattern).replace(r'\{', '{').replace(r'\}', '}')
    match = re.fullmatch(regex.format_map({piece: f'(?P<{piece}>{what})' for piece, what in _PIECES.items()}), name)
    if match is None:
        return None
    pieces = match.groupdict()
    if 'part' in pieces:
        pieces['part'] = parts.get(pieces['part'])
    if 'stage' in pieces:
        pieces['stage'] = int(pieces['stage']) + shift
    if pieces.get('part', '') is None or pieces.get('stage', 0) < 0:
        return None
    return template.format_map(pieces)


def _first(names: Iterable[str | None]) -> str | None:
    return next((name for name in names if name is not None), None)


VMAMBA = VMambaNames()
