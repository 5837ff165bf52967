"""Curves over input sizes."""

import os
from collections.abc import Sequence

from matplotlib.figure import Figure

from mmsparx.cli.analyze.sizes import Row

# Each plot has ten models, as there are ten colours.
_MARKERS = 'osD^v'


def draw_sizes(rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Draw accuracy over sizes, the paper's dashed, or multiply-adds where nothing was measured.

    Args:
        rows: Models at sizes.
        path: Image file to write.
    """
    labels = dict.fromkeys(row.model for row in rows)
    # The names stand below the panel, one a line.
    figure = Figure(figsize=(5, 3.6 + 0.2 * len(labels)), layout='constrained', dpi=150)
    panel = figure.subplots()
    measured = rows[0].accuracies is not None
    for i, label in enumerate(labels):
        own = sorted((row for row in rows if row.model == label), key=lambda row: row.size)
        values = [row.accuracies.top1 if measured else row.macs / 1e9 for row in own]
        style = dict(color=f'C{i % 10}', marker=_MARKERS[i // 10 % len(_MARKERS)], markersize=4)
        name = f'{label}, {own[0].weights}' if measured else label
        panel.plot([row.size for row in own], values, label=name, **style)
        printed = [(row.size, row.paper_top1) for row in own if row.paper_top1 is not None]
        if measured and printed:
            panel.plot(*zip(*printed, strict=True), color=style['color'], linestyle='--', label=f"{label}, the paper's")
    panel.set(xlabel='side of the image in pixels', ylabel='top-1 accuracy in %' if measured else 'GFLOPs')
    panel.grid(alpha=0.3)
    panel.spines[['top', 'right']].set_visible(False)
    figure.legend(loc='outside lower left', frameon=False, fontsize=8)
    figure.savefig(path, bbox_inches='tight')
