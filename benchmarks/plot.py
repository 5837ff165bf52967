"""Draw a benchmark's results: `python -m benchmarks.plot FILE.json` writes FILE.png. Needs matplotlib."""

import argparse
from collections.abc import Collection
from pathlib import Path

from benchmarks.report import Comparison, Report, short
from benchmarks.scan_tables import PLAIN

# Okabe and Ito's palette, which colour-blind readers can distinguish.
OURS, THEIRS, OTHERS = '#D55E00', '#0072B2', '#56B4E9'
NETWORKS = {'tiny': '#0072B2', 'small': '#E69F00', 'base': '#009E73'}
MARKERS = 'osD^vP'
# The benchmarks of scans, with their images' titles.
SCANS = {'selective_scan': 'Selective scan', 'cross_selective_scan': 'Scan of maps along four directions'}
DRAWN = (*SCANS, 'network')


def draw(report: Report, out: Path) -> Path:
    """Write a report's image to `out`, which is returned.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use('Agg')  # no display is needed to write a file
    import matplotlib.pyplot as plt

    plt.rcParams.update({'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False})
    figure = (_scan if report.benchmark in SCANS else _networks)(plt, report)
    figure.savefig(out, dpi=110)
    plt.close(figure)
    return out


def _hardware(report: Report) -> str:
    hardware = report.environment['hardware']
    if 'gpu' in hardware:
        return hardware['gpu']['model']
    threads = report.settings['threads']
    return f'{hardware["cpu"]["model"]}, {threads} thread{"s" if threads > 1 else ""}'


def _bars(axis, values: dict[str, tuple[float, float, float]], colors: list[str]) -> None:
    """Horizontal bars: (median, first quartile, third quartile) by label, with the median written out."""
    labels, rows = list(values), list(values.values())
    medians = [median for median, _, _ in rows]
    spread = [[m - low for m, low, _ in rows], [high - m for m, _, high in rows]]
    axis.barh(labels, medians, xerr=spread, color=colors, error_kw={'elinewidth': 0.8, 'capsize': 2})
    for i, (median, _, high) in enumerate(rows):
        axis.annotate(short(median), (max(median, high), i), (4, 0), textcoords='offset points', va='center')
    axis.invert_yaxis()
    axis.margins(x=0.15, y=0.02)


def _scan(plt, report: Report):
    """All contenders on the largest stage that has several; the best one over all cases, and its plain scan's maps."""
    passes = list(dict.fromkeys(comparison.case['pass'] for comparison in report.comparisons))
    figure, axes = plt.subplots(
        len(passes), 2, figsize=(11, 3.4 * len(passes)), squeeze=False, layout='constrained', sharex='col'
    )
    for (left, right), which in zip(axes, passes, strict=True):
        chosen = [c for c in report.comparisons if c.case['pass'] == which and c.measured]
        if chosen:
            _scan_contenders(
                left,
                max(chosen, key=lambda c: (len(c.measured), c.case['length'])),
                report.environment['scan_backends'],
            )
            _scan_sizes(right, chosen)
    figure.suptitle(f'{SCANS[report.benchmark]} on {_hardware(report)}: time per element, median', fontsize=11)
    return figure


def _elements(comparison: Comparison) -> int:
    return comparison.case['batch'] * comparison.case['channels'] * comparison.case['length']


def _scan_contenders(axis, comparison: Comparison, ours: Collection[str]) -> None:
    case, scale = comparison.case, 1e9 / _elements(comparison)
    values = {
        name: tuple(scale * x for x in (timing.median, *timing.quartiles))
        for name, timing in sorted(comparison.measured.items(), key=lambda entry: entry[1].median)
    }
    colors = [OURS if name.partition('-')[0] in ours and not name.endswith(PLAIN) else OTHERS for name in values]
    axis.set_xscale('log')
    _bars(axis, values, colors)
    axis.set_title(f'{case["pass"]}: {case["network"]}, {case["image"]}, stage {case["stage"]}, batch {case["batch"]}')
    axis.set_xlabel('ns per element (log scale)')


def _scan_sizes(axis, chosen: list[Comparison]) -> None:
    batches = list(dict.fromkeys(c.case['batch'] for c in chosen))
    first = '/'.join(dict.fromkeys(next(iter(comparison.measured)) for comparison in chosen))
    highest = 0
    for network, color in NETWORKS.items():
        for marker, batch in zip(MARKERS, batches, strict=False):
            best, plain = [], []
            for comparison in chosen:
                if comparison.case['network'] == network and comparison.case['batch'] == batch:
                    elements, (name, timing) = _elements(comparison), next(iter(comparison.measured.items()))
                    best.append((elements / 1e6, timing.median / elements * 1e9))
                    if (other := comparison.measured.get(name + PLAIN)) is not None:
                        plain.append((elements / 1e6, other.median / elements * 1e9))
            options = dict(color=color, markersize=5, alpha=0.85)
            if best:
                axis.plot(*zip(*sorted(best), strict=True), marker, label=f'{network}, batch {batch}', **options)
            if plain:
                axis.plot(*zip(*sorted(plain), strict=True), marker, fillstyle='none', **options)
            highest = max([highest, *(nanoseconds for _, nanoseconds in best + plain)])
    hollow = any(name.endswith(PLAIN) for c in chosen for name in c.measured)
    axis.set(xscale='log', ylim=(0, 1.4 * highest), ylabel='ns per element', xlabel='millions of elements (log scale)')
    axis.xaxis.set_minor_formatter('')
    axis.set_title(f'{chosen[0].case["pass"]}: {first}, all stages and images')
    axis.grid(alpha=0.3)
    title = 'hollow: by its plain scan' if hollow else None
    axis.legend(frameon=False, fontsize=8, ncols=3, loc='upper center', title=title, title_fontsize=8)


def _networks(plt, report: Report):
    """Images per second, a panel for each mode, image and batch."""
    keys = list(dict.fromkeys((c.case['mode'], c.case['image'], c.case['batch']) for c in report.comparisons))
    bars = max(sum(len(c.measured) for c in report.comparisons if _key(c) == key) for key in keys)
    figure, axes = plt.subplots(
        1, len(keys), figsize=(1 + 4 * len(keys), 1.3 + 0.28 * bars), squeeze=False, layout='constrained'
    )
    for axis, key in zip(axes[0], keys, strict=True):
        values, colors = {}, []
        for comparison in report.comparisons:
            if _key(comparison) != key:
                continue
            for name, timing in comparison.measured.items():
                values[name] = tuple(key[2] / x for x in (timing.median, *reversed(timing.quartiles)))
                colors.append(OURS if name.startswith('SparX') else THEIRS if name.startswith('Swin') else OTHERS)
        _bars(axis, values, colors)
        axis.set_title('{}, {}, batch {}'.format(*key))
        axis.set_xlabel('images per second')
    figure.suptitle(f'Networks on {_hardware(report)}: median, more is better', fontsize=11)
    return figure


def _key(comparison: Comparison) -> tuple:
    return tuple(comparison.case[name] for name in ('mode', 'image', 'batch'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument('result', type=Path, help='JSON of a benchmark')
    parser.add_argument('--out', type=Path, help='image to write (default: beside the JSON)')
    args = parser.parse_args()
    try:
        print(draw(Report.load(args.result), args.out or args.result.with_suffix('.png')))
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == '__main__':
    main()
