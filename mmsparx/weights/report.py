"""The report on a model's parameters after a checkpoint was loaded, as an object and as a table."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class LoadReport:
    """A model and a checkpoint, name by name, under the model's names.

    Attributes:
        source: Source of the weights.
        sizes: Number of elements of each parameter and buffer of the model, by name.
        matched: Names that are loaded.
        fresh: Names that keep their initial values, as they may: the checkpoint lacks them, or has
            them in another shape.
        left_out: Names of the checkpoint that the model lacks, as it may.
        missing: Names that the checkpoint lacks, but must have.
        unexpected: Names of the checkpoint that match nothing.
        wrong_shape: (shape in the model, shape in the checkpoint) by name.
        adapted: (channels in the model, channels in the file) of weights fitted to images with other channels, by name.
    """

    source: str
    sizes: dict[str, int] = field(default_factory=dict)
    matched: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    adapted: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether everything matches that must."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    @property
    def share(self) -> float:
        """The share of the model's elements, of parameters and buffers, that is loaded, from 0 to 1."""
        return _share(sum(self.sizes[name] for name in self.matched), sum(self.sizes.values()))

    def parts(self) -> dict[str, tuple[int, int, int, int]]:
        """Per part of the model (stem, each stage, neck, head ...): tensors, matched ones, elements, matched ones."""
        parts: dict[str, tuple[int, int, int, int]] = {}
        matched = set(self.matched)
        for name, size in self.sizes.items():
            part = _PART.match(name)[0]
            row = (1, name in matched, size, size * (name in matched))
            parts[part] = tuple(a + b for a, b in zip(parts.get(part, (0, 0, 0, 0)), row, strict=True))
        return parts

    def summary(self) -> str:
        """The shares, and the first names of what does not match."""
        headline = (
            f'weights from {self.source}: {len(self.matched)} of {len(self.sizes)} tensors match, '
            f'{_percent(self.share)} of the elements'
        )
        shapes = [f'{k} (model {m}, file {f})' for k, (m, f) in self.wrong_shape.items()]
        adapted = [f'{k} (model {m}, file {f})' for k, (m, f) in self.adapted.items()]
        explained = (
            (self.missing, 'MISSING in the file'),
            (self.unexpected, 'UNEXPECTED in the file'),
            (shapes, 'of ANOTHER SHAPE'),
            (self.fresh, 'keep their initial values'),
            (self.left_out, 'in the file, not in the model, left out'),
            (adapted, 'fitted to other input channels'),
        )
        remarks = [f'  {len(names)} {what}: {shorten(names)}' for names, what in explained if names]
        return '\n'.join([headline, *remarks])

    def __str__(self) -> str:
        rows = [('part', 'tensors', 'match', 'elements', 'match', 'share')]
        for part, counts in self.parts().items():
            rows.append((part, *(f'{count:,}' for count in counts), _percent(_share(counts[3], counts[2]))))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        headline, *remarks = self.summary().split('\n')
        table = [
            '  '.join(['', row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        return '\n'.join([headline, *table, *remarks])


# Part of a name: in a backbone, and in a model, up to the first dot; each stage is a part.
_PART = re.compile(r'(?:(?:.*\.)?backbone\.)?(?:stages\.\d+|[^.]+)')


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _percent(share: float) -> str:
    """Rounded down, so that 100 means all."""
    return f'{math.floor(share * 1e4) / 100:g} %'


def shorten(names: Iterable[str], count: int = 4) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    return ', '.join(names[:count]) + (f', ... ({len(names) - count} more)' if len(names) > count else '')
