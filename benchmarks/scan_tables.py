"""Tables of a benchmark of scans, as Markdown."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.report import Comparison, Report, markdown, short
from mmsparx.analysis.timing import Timing

PLAIN = '-plain'  # of a contender that scans maps by its plain scan, after the name of the one that it is compared to


@dataclass(frozen=True)
class Tables:
    """All contenders of a case against the first, if there are many; then the first over all cases.

    Attributes:
        least_bytes: Function case -> bytes that its pass must read and write, if every tensor is moved once.
        gain: Function comparison -> speed-up of the first contender over another one; None if there is no other.
        gain_title: Name of the other contender, for the title.
    """

    least_bytes: Callable[[dict[str, str | int]], int]
    gain: Callable[[Comparison], float | None]
    gain_title: str

    def __call__(self, report: Report) -> str:
        parts = [
            'An element is one of (batch, channels, positions). Errors are those of the output, or the worst of all '
            'gradients, against float64.'
        ]
        if speeds := [x / 1e9 for comparison in report.comparisons if (x := copy_speed(comparison)) is not None]:
            parts.append(
                f'A copy moved {short(statistics.median(speeds))} GB/s, bytes read and written together: the median of '
                f'the comparisons, which were between {short(min(speeds))} and {short(max(speeds))}; "% of copy" is '
                'that of the comparison itself.'
            )
        for which in dict.fromkeys(comparison.case['pass'] for comparison in report.comparisons):
            chosen = [comparison for comparison in report.comparisons if comparison.case['pass'] == which]
            full = [comparison for comparison in chosen if len(comparison.measured) > 2 or comparison.copy]
            for place in dict.fromkeys(map(_place, full)):
                rows = [row for comparison in full if _place(comparison) == place for row in self._details(comparison)]
                parts += ['## All contenders, {}: {}, {}, batch {}'.format(which, *place), markdown(rows)]
            for title, value in (
                ('ns per element', _best),
                ('% of the speed of a copy', self._share),
                (self.gain_title, self.gain),
            ):
                if rows := _over_stages(chosen, value):
                    parts += [f'## Best backend, {which}: {title}', markdown(rows)]
        parts += [
            f'Not measured: {", ".join(f"{key} {value}" for key, value in comparison.case.items())}: '
            + '; '.join(dict.fromkeys(str(timing.skipped) for timing in comparison.timings.values()))
            for comparison in report.comparisons
            if not comparison.measured
        ]
        return '\n\n'.join(parts)

    def _details(self, comparison: Comparison) -> Iterator[dict]:
        case, scale = comparison.case, _nanoseconds(comparison)
        first = next(iter(comparison.measured), None)
        for name, timing in comparison.timings.items():
            row = {'stage': case['stage'], 'contender': name}
            if timing.skipped is not None:
                yield {**row, 'remark': f'skipped: {timing.skipped}'}
                continue
            row |= {
                'ns/element': timing.median * scale,
                'minimum': timing.minimum * scale,
                'IQR': timing.iqr * scale,
                'samples': len(timing.seconds),
                f'time / {first}': timing.median / comparison.timings[first].median,
                'error': timing.facts.get('relative_error'),
            }
            if comparison.copy is not None:
                row['GB/s'] = self.least_bytes(case) / timing.median / 1e9
                row['% of copy'] = self._percent_of_copy(comparison, timing)
            if 'peak_bytes' in timing.facts:
                row['peak (GiB)'] = timing.facts['peak_bytes'] / 2**30
            yield row

    def _percent_of_copy(self, comparison: Comparison, timing: Timing) -> float | None:
        speed = copy_speed(comparison)
        return None if speed is None else 100 * self.least_bytes(comparison.case) / timing.median / speed

    def _share(self, comparison: Comparison) -> float | None:
        first = next(iter(comparison.measured.values()), None)
        return None if first is None else self._percent_of_copy(comparison, first)


def copy_speed(comparison: Comparison) -> float | None:
    """Bytes per second, read and written ones together; None where no copy was timed."""
    copy = comparison.copy
    return None if copy is None or copy.skipped is not None else copy.facts['bytes'] / copy.median


def _nanoseconds(comparison: Comparison) -> float:
    """Nanoseconds per element for each second of a call; elements are those of (batch, channels, length)."""
    case = comparison.case
    return 1e9 / (case['batch'] * case['channels'] * case['length'])


def _place(comparison: Comparison) -> tuple:
    return tuple(comparison.case[name] for name in ('network', 'image', 'batch'))


def _best(comparison: Comparison) -> float | None:
    first = next(iter(comparison.measured.values()), None)
    return None if first is None else first.median * _nanoseconds(comparison)


def _over_stages(chosen: Sequence[Comparison], value: Callable[[Comparison], float | None]) -> list[dict]:
    """A row for every network, image and batch that has such a value, a column per stage."""
    rows: dict[tuple, dict] = {}
    for comparison in chosen:
        if (number := value(comparison)) is not None:
            place = _place(comparison)
            row = dict(zip(('network', 'image', 'batch'), place, strict=True))
            rows.setdefault(place, row)[f'stage {comparison.case["stage"]}'] = number
    return list(rows.values())
