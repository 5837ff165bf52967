"""Findings of a check, by kinds of faults."""

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field

_EXAMPLES = 3


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        text: Description of the fault and of the expected value, without names.
        fix: Sentence that says how to fix it.
        is_error: True if the fault ends a run or corrupts its result; otherwise it is a warning.
    """

    text: str
    fix: str
    is_error: bool = True


@dataclass
class _Found:
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Findings:
    """Faults of one source, counted by kind, with the first three places of each.

    Args:
        source: Name of the file or folder.
    """

    def __init__(self, source: object) -> None:
        self.source = str(source)
        self._found: dict[Kind, _Found] = {}

    def add(self, kind: Kind, place: str = '', got: object = '') -> None:
        """Count a fault.

        Args:
            kind: Kind of the fault.
            place: Place within the source.
            got: Value found there, shortened by `repr`; a string is taken as it is.
        """
        found = self._found.setdefault(kind, _Found())
        found.count += 1
        if len(found.examples) < _EXAMPLES:
            got = got if isinstance(got, str) else shortened(got)
            found.examples.append(': '.join(filter(None, (place, got))))

    def count(self, kind: Kind) -> int:
        """Number of findings of a kind."""
        return self._found[kind].count if kind in self._found else 0

    def kinds(self, is_error: bool) -> list[Kind]:
        """The kinds that were found, errors or warnings."""
        return [kind for kind in self._found if kind.is_error == is_error]

    def text(self, is_error: bool) -> str:
        """The errors, or the warnings, as a paragraph for each kind; empty where there are none."""
        return '\n'.join(line for kind in self.kinds(is_error) for line in self._paragraph(kind))

    def _paragraph(self, kind: Kind) -> Iterator[str]:
        found = self._found[kind]
        yield f'{self.source}: {kind.text} ({found.count} {"time" if found.count == 1 else "times"})'
        yield from (f'    {example}' for example in filter(None, found.examples))
        if found.count > len(found.examples):
            yield f'    and {found.count - len(found.examples)} more'
        yield f'  {kind.fix}'


class _Shortener(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlist, self.maxdict, self.maxlevel, self.maxstring = 8, 4, 4, 60


_SHORTENER = _Shortener()


def shortened(value: object) -> str:
    """A value as Python writes it, cut where it is long."""
    return _SHORTENER.repr(value)
