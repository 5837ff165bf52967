"""Styles of micro-blocks: what stands around the token mixer, as data; free of torch.

A network's *style* names its stem, downsampling, norm and feed-forward, and says whether its layers have position
encoding and shortcut scales. `sparx` is that of the published SparX checkpoints, `vmamba` and `swin` those of the plain
networks that SparX is compared with and, for SSM, Bi-SSM and SparX-Swin, put into.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Style:
    """The micro-blocks of a network.

    Attributes:
        stem: Name in `mmsparx.layers.basic.STEMS`.
        downsample: Name in `mmsparx.layers.basic.DOWNSAMPLES`.
        norm: Name in `mmsparx.layers.norm.NORMS` of the norm before each mixer and feed-forward, and of the
            classification head.
        ffn: Name in `mmsparx.layers.basic.FFNS`.
        position_encoding: Whether a layer begins with x + dwconv(x).
        shortcut_scales: Whether the shortcuts of stages 3 and later carry a weight and a bias per channel, where
            `Architecture.shortcut_scales` does not say it stage by stage.
        output_norm_eps: Epsilon of the LayerNorms of dense prediction.
    """

    stem: str
    downsample: str
    norm: str
    ffn: str
    position_encoding: bool
    shortcut_scales: bool
    output_norm_eps: float

    def __post_init__(self):
        for name in ('stem', 'downsample', 'norm', 'ffn'):
            if not isinstance(value := getattr(self, name), str):
                raise ValueError(f'style: expected {name} to be a name, got {value!r}')
        for name in ('position_encoding', 'shortcut_scales'):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f'style: expected {name} to be True or False, got {value!r}')
        if not isinstance(self.output_norm_eps, float) or self.output_norm_eps <= 0:
            raise ValueError(f'style: expected output_norm_eps to be a float above 0, got {self.output_norm_eps!r}')

    @classmethod
    def of(cls, cfg: 'str | Mapping | Style') -> 'Style':
        """A style by name, from a config's dict, or as it is.

        Args:
            cfg: A name in `STYLES`; a dict of such a name as its `type` and the fields that differ, as in
                `dict(type='sparx', position_encoding=False)`; or an instance.

        Raises:
            ValueError: Unknown name or field; the message lists the known ones.
        """
        if isinstance(cfg, cls):
            return cfg
        known = ', '.join(STYLES)
        changes = dict(cfg) if isinstance(cfg, Mapping) else {'type': cfg}
        if 'type' not in changes:
            raise ValueError(f"style: expected a dict with a 'type', one of {known}, got {changes}")
        name = changes.pop('type')
        if not isinstance(name, str) or name not in STYLES:
            raise ValueError(f'unknown style {name!r}; known ones: {known}')
        names = [field.name for field in fields(cls)]
        if unknown := sorted(set(changes) - set(names)):
            raise ValueError(f'style: unknown field {", ".join(unknown)}; known ones: {", ".join(names)}')
        return replace(STYLES[name], **changes) if changes else STYLES[name]

    def as_dict(self) -> dict[str, str | bool | float]:
        """The name of the nearest style as `type`, and the fields that differ from it, of which `of` makes the same."""
        changes = {name: self._differs(other) for name, other in STYLES.items()}
        name = min(changes, key=lambda name: len(changes[name]))
        return {'type': name, **changes[name]}

    def _differs(self, other: 'Style') -> dict[str, str | bool | float]:
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value != getattr(other, name)}


STYLES = {
    # The published SparX-Mamba. Determined by the checkpoints.
    'sparx': Style(
        stem='conv',
        downsample='conv',
        norm='GN',
        ffn='conv',
        position_encoding=True,
        shortcut_scales=True,
        output_norm_eps=1e-6,
    ),
    # VMamba (Liu et al., 2024), and SparX with the mixers SSM and BiSSM. Determined by VMamba's checkpoints.
    'vmamba': Style(
        stem='conv_ln',
        downsample='conv_ln',
        norm='LN2d',
        ffn='plain',
        position_encoding=False,
        shortcut_scales=False,
        output_norm_eps=1e-5,
    ),
    # Swin (Liu et al., 2021), and SparX-Swin. Determined by the paper: the plain network's micro-blocks, no position
    # encoding.
    'swin': Style(
        stem='patch',
        downsample='patch_merging',
        norm='LN2d',
        ffn='plain',
        position_encoding=False,
        shortcut_scales=False,
        output_norm_eps=1e-5,
    ),
}
