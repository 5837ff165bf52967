"""A network's sizes as data; free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from mmsparx.models.connection import StagePlan


@dataclass(frozen=True)
class Architecture:
    """The sizes of a hierarchical SparX network.

    Attributes:
        channels: per stage.
        stages: the connection plan of each stage; in a config, dicts of `StagePlan`'s fields.
        stem_depth: convolutions of the stem.
        reductions: r per stage, the stride of the aggregator's spatial reduction; by default what
            brings every stage's map to the last one's size (8, 4, 2, 1).
        shortcut_scales: per stage, whether shortcuts carry a weight and a bias per channel; by
            default in stages 3 and later.
    """

    channels: tuple[int, ...]
    stages: tuple[StagePlan, ...]
    stem_depth: int = 2
    reductions: tuple[int, ...] | None = None
    shortcut_scales: tuple[bool, ...] | None = None

    def __post_init__(self):
        set_field = object.__setattr__  # the instance is frozen
        set_field(self, 'channels', tuple(self.channels))
        set_field(self, 'stages', tuple(StagePlan.of(stage) for stage in self.stages))
        count = len(self.stages)
        if self.reductions is None:
            set_field(self, 'reductions', tuple(2 ** (count - 1 - i) for i in range(count)))
        if self.shortcut_scales is None:
            set_field(self, 'shortcut_scales', tuple(i >= 2 for i in range(count)))
        for name in ('channels', 'reductions', 'shortcut_scales'):
            value = tuple(getattr(self, name))
            set_field(self, name, value)
            if len(value) != count or count == 0:
                raise ValueError(f'Architecture: expected one entry of {name} per stage, got {value} for {count}')
        if self.stem_depth < 2:
            raise ValueError(f'Architecture: expected stem_depth of at least 2, got {self.stem_depth}')

    @classmethod
    def of(cls, arch: 'str | Mapping | Architecture', named: Mapping[str, 'Architecture']) -> 'Architecture':
        """An architecture by name, from a config's dict, or as it is.

        Args:
            arch: a name in `named`, a mapping of this class's fields, or an instance.
            named: the published sizes of a family.

        Raises:
            ValueError: an unknown name or field; the message lists the known ones.
        """
        if isinstance(arch, cls):
            return arch
        if isinstance(arch, str):
            if arch not in named:
                raise ValueError(
                    f'unknown arch {arch!r}; known ones: {", ".join(named)}, or a dict of {cls._field_names()}'
                )
            return named[arch]
        unknown = set(arch) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f'arch: unknown field {", ".join(sorted(unknown))}; known ones: {cls._field_names()}')
        return cls(**arch)

    @classmethod
    def _field_names(cls) -> str:
        return ', '.join(field.name for field in fields(cls))

    @property
    def depth(self) -> int:
        """Layers of all stages."""
        return sum(stage.depth for stage in self.stages)

    def __str__(self) -> str:
        stages = zip(self.channels, self.stages, strict=True)
        return '\n'.join(f'stage {i}: {channels} channels, {plan}' for i, (channels, plan) in enumerate(stages, 1))
