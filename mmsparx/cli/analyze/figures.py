"""Figures of the analyses."""

import os
import re
import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmsparx.analysis.cka import Similarity
from mmsparx.analysis.erf import ReceptiveField, scaled
from mmsparx.cli.named_model import NamedModel

_DPI = 150
_PANEL = 2.1  # inches
# Panels of similarities in a row.
_COLUMNS = 4
# Characters of a label in a line beside a row of panels.
_WIDTH = 24


def draw_fields(
    models: Sequence[NamedModel],
    fields: Mapping[str, Mapping[int, ReceptiveField]],
    scale: str,
    path: str | os.PathLike,
) -> None:
    """Draw effective receptive fields: a row a model, a column a stage.

    Args:
        models: Models, in order.
        fields: Fields of each model, by its label and by stage.
        scale: Scale of the colours, see `mmsparx.analysis.erf.scaled`.
        path: Image file to write.
    """
    stages = sorted({stage for found in fields.values() for stage in found})
    figure = Figure(figsize=(_PANEL * len(stages) + 2.2, _PANEL * len(models) + 0.5), layout='constrained', dpi=_DPI)
    panels = figure.subplots(len(models), len(stages), squeeze=False)
    for panel, stage in zip(panels[0], stages, strict=True):
        panel.set_title(f'stage {stage}', fontsize=10)
    for row, model in zip(panels, models, strict=True):
        for panel, stage in zip(row, stages, strict=True):
            panel.set(xticks=[], yticks=[])
            if stage not in fields[model.label]:
                panel.spines[:].set_visible(False)
                continue
            drawn = panel.imshow(scaled(fields[model.label][stage].map, scale), vmin=0, vmax=1, cmap='viridis')
        _name_row(row[0], model)
    bar = figure.colorbar(drawn, ax=panels, fraction=0.03, aspect=20 * len(models), pad=0.01)
    text = '(field / its maximum)$^{0.2}$' if scale == 'root' else 'log$_{10}$(1 + field) / its maximum'
    bar.set_label(text, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.savefig(path, bbox_inches='tight')  # whatever the length of names


def draw_similarities(models: Sequence[NamedModel], found: Mapping[str, Similarity], path: str | os.PathLike) -> None:
    """Draw heat maps of the similarity of layers, a panel a model, in one colour scale from 0 to 1.

    Args:
        models: Models, in order.
        found: Similarity of each model's layers, by its label.
        path: Image file to write.
    """
    columns = min(len(models), _COLUMNS)
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(2.9 * columns + 0.9, 3.4 * rows), layout='constrained', dpi=_DPI)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat[len(models) :]:
        panel.set_axis_off()
    for panel, model in zip(panels.flat, models, strict=False):
        similarity = found[model.label]
        matrix = similarity.matrix.numpy()
        drawn = panel.imshow(matrix, vmin=0, vmax=1, cmap='magma', origin='lower')
        panel.set_facecolor('lightgrey')  # where there is no value
        mean = f'mean off the diagonal {similarity.mean_off_diagonal:.3f}'
        panel.set_title(f'{wrapped(model.label, 30)}\n{wrapped(model.weights, 30)}\n{mean}', fontsize=9)
        count = len(similarity.names)
        ticks = range(0, count, max(1, round(count / 8)))
        panel.set_xticks(ticks, [i + 1 for i in ticks], fontsize=8)
        panel.set_yticks(ticks, [i + 1 for i in ticks], fontsize=8)
        panel.set_xlabel('layer', fontsize=9)
        panel.set_ylabel('layer', fontsize=9)
        starts = [i for i in range(1, count) if _stage(similarity.names[i]) != _stage(similarity.names[i - 1])]
        for start in starts:
            panel.axhline(start - 0.5, color='black', linewidth=0.7)
            panel.axvline(start - 0.5, color='black', linewidth=0.7)
    lowest = min(similarity.matrix.nan_to_num().min() for similarity in found.values())
    bar = figure.colorbar(drawn, ax=panels, fraction=0.03, pad=0.02, extend='min' if lowest < 0 else 'neither')
    bar.set_label('CKA', fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.savefig(path, bbox_inches='tight')  # whatever the length of names


def _stage(name: str) -> str | None:
    """The stage in a layer's name: the first number in it."""
    number = re.search(r'\d+', name)
    return number and number[0]


def _name_row(panel: Axes, model: NamedModel) -> None:
    """Write a model's label, and what its weights are, beside the first panel of its row."""
    panel.set_ylabel(
        f'{wrapped(model.label)}\n{wrapped(model.weights)}', rotation=0, ha='right', va='center', fontsize=9, labelpad=8
    )


def wrapped(name: str, width: int = _WIDTH) -> str:
    """A name in lines of a width, broken at blanks and behind underscores."""
    return textwrap.fill(name.replace('_', '_ '), width).replace('_ ', '_')
