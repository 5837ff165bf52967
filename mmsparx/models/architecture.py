"""A network's sizes as data; free of torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace

from mmsparx.models.connection import StagePlan, is_integer


@dataclass(frozen=True)
class Architecture:
    """The sizes of a hierarchical SparX network.

    Attributes:
        channels: Channels of each stage.
        stages: Connection plan of each stage; in a config, dicts of `StagePlan`'s fields.
        stem_depth: Number of convolutions of the stem, at least 2; the stem of the style 'swin' has one instead.
        reductions: r per stage, the stride of the aggregator's spatial reduction; by default what
            brings every stage's map to the last one's size (8, 4, 2, 1).
        shortcut_scales: Whether shortcuts carry a weight and a bias per channel, stage by stage; None for what the
            network's style says.
        token_mixer: Options of the token mixer that belong to these sizes, as `dict(expand=1)`; those that a network
            is given itself come first.
    """

    channels: tuple[int, ...]
    stages: tuple[StagePlan, ...]
    stem_depth: int = 2
    reductions: tuple[int, ...] | None = None
    shortcut_scales: tuple[bool, ...] | None = None
    token_mixer: Mapping = field(default_factory=dict, hash=False)

    def __post_init__(self):
        set_field = object.__setattr__  # the instance is frozen
        set_field(self, 'stages', tuple(StagePlan.of(stage) for stage in _entries('stages', self.stages)))
        count = len(self.stages)
        if self.reductions is None:
            set_field(self, 'reductions', tuple(2 ** (count - 1 - i) for i in range(count)))
        for name in ('channels', 'reductions', 'shortcut_scales'):
            if name == 'shortcut_scales' and self.shortcut_scales is None:
                continue
            value = _entries(name, getattr(self, name))
            set_field(self, name, value)
            if len(value) != count or count == 0:
                raise ValueError(f'Architecture: expected one entry of {name} per stage, got {value} for {count}')
        for name in ('channels', 'reductions'):
            if not all(is_integer(entry) and entry >= 1 for entry in getattr(self, name)):
                raise ValueError(f'Architecture: expected {name} of at least 1, got {getattr(self, name)}')
        if not all(isinstance(entry, bool) for entry in self.shortcut_scales or ()):
            raise ValueError(f'Architecture: expected shortcut_scales to be True or False, got {self.shortcut_scales}')
        if not is_integer(self.stem_depth) or self.stem_depth < 2:
            raise ValueError(f'Architecture: expected stem_depth of at least 2, got {self.stem_depth!r}')
        if not isinstance(self.token_mixer, Mapping) or 'type' in self.token_mixer:
            raise ValueError(
                f"Architecture: expected token_mixer to be a dict of options without a 'type', got {self.token_mixer!r}"
            )
        set_field(self, 'token_mixer', dict(self.token_mixer))

    @classmethod
    def of(cls, arch: 'str | Mapping | Architecture', named: Mapping[str, 'Architecture']) -> 'Architecture':
        """An architecture by name, from a config's dict, or as it is.

        Args:
            arch: A name in `named`; a mapping of this class's fields, which may have such a name as its `base` and
                then holds what differs from it; or an instance.
            named: The published sizes of a family.

        Raises:
            ValueError: Unknown name or field; the message lists the known ones.
        """
        if isinstance(arch, cls):
            return arch
        if isinstance(arch, str):
            return cls._named(arch, named, 'arch')
        fields_of_arch = [field.name for field in fields(cls)]
        if not isinstance(arch, Mapping):
            raise ValueError(f'arch: expected one of {_listed(named)}, or a dict, got {arch!r}')
        options = dict(arch)
        base = options.pop('base', None)
        if unknown := sorted(set(options) - set(fields_of_arch)):
            raise ValueError(f'arch: unknown field {", ".join(unknown)}; known ones: {_listed(fields_of_arch)}, base')
        if base is not None:
            return replace(cls._named(base, named, 'base of arch'), **options)
        if missing := [name for name in ('channels', 'stages') if name not in options]:
            raise ValueError(
                f'arch: expected {" and ".join(missing)}, or a base, one of {_listed(named)}, to take them from; '
                f'got {options}'
            )
        return cls(**options)

    def as_dict(self) -> dict[str, object]:
        """The fields as data for JSON, of which `of` makes the same sizes; those of default values are left out."""
        found: dict[str, object] = {
            'channels': list(self.channels),
            'stages': [stage.as_dict() for stage in self.stages],
        }
        default = Architecture(self.channels, self.stages)
        if self.stem_depth != default.stem_depth:
            found['stem_depth'] = self.stem_depth
        for name in ('reductions', 'shortcut_scales'):
            if getattr(self, name) != getattr(default, name):
                found[name] = list(getattr(self, name))
        if self.token_mixer:
            found['token_mixer'] = dict(self.token_mixer)
        return found

    @classmethod
    def _named(cls, name: str, named: Mapping[str, 'Architecture'], option: str) -> 'Architecture':
        if not isinstance(name, str) or name not in named:
            names = ', '.join(field.name for field in fields(cls))
            raise ValueError(f'unknown {option} {name!r}; known ones: {_listed(named)}, or a dict of {names}')
        return named[name]

    @property
    def depth(self) -> int:
        """Layers of all stages."""
        return sum(stage.depth for stage in self.stages)

    def __str__(self) -> str:
        stages = zip(self.channels, self.stages, strict=True)
        return '\n'.join(f'stage {i}: {channels} channels, {plan}' for i, (channels, plan) in enumerate(stages, 1))


def _entries(name: str, value: object) -> tuple:
    """A field with an entry per stage."""
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        raise ValueError(f'Architecture: expected one entry of {name} per stage, got {value!r}')
    return tuple(value)


def _listed(names: Iterable[str]) -> str:
    return ', '.join(names) or 'none'
