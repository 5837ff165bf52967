"""Figures of class activations and of feature maps over images."""

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mmsparx.cli.analyze.subjects import Subject

_DPI = 130
_PANEL = 2.3  # inches
# Images in a row of the sheet.
_COLUMNS = 4
_COLOURS = 'inferno'


@dataclass
class Overlay:
    """A class activation over its image.

    Attributes:
        file: Name of the image.
        title: Class and score.
        image: Image, (h, w, 3), RGB, 8 bits.
        activation: Activation from 0 to 1, (h, w).
    """

    file: str
    title: str
    image: np.ndarray
    activation: np.ndarray

    @cached_property
    def blended(self) -> np.ndarray:
        """Half the image, half the colours of the activation; (h, w, 3), 8 bits."""
        colours = 255 * colormaps[_COLOURS](self.activation)[..., :3]
        return (0.5 * self.image + 0.5 * colours).round().astype(np.uint8)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image (h, w, 3) of 8 bits, RGB, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def draw_sheet(overlays: Sequence[Overlay], title: str, path: str | os.PathLike) -> None:
    """Draw images, and under each its overlay with class and score, with a bar of the colours.

    Args:
        overlays: Overlays to draw.
        title: Title above all images.
        path: Image file to write.
    """
    columns = min(len(overlays), _COLUMNS)
    rows = -(-len(overlays) // columns)
    tallest = max(overlay.image.shape[0] / overlay.image.shape[1] for overlay in overlays)
    height = 2 * rows * (_PANEL * min(tallest, 1.5) + 0.35) + 0.5
    figure = Figure(figsize=(max(_PANEL * columns + 0.9, 5.5), height), layout='constrained', dpi=_DPI)
    panels = figure.subplots(2 * rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for i, overlay in enumerate(overlays):
        row, column = 2 * (i // columns), i % columns
        panels[row, column].imshow(overlay.image)
        panels[row, column].set_title(textwrap.shorten(overlay.file, 30, placeholder='...'), fontsize=8)
        panels[row + 1, column].imshow(overlay.blended)
        panels[row + 1, column].set_title(_short(overlay.title), fontsize=8)
    bar = figure.colorbar(ScalarMappable(cmap=_COLOURS), ax=panels, fraction=0.02, aspect=25, pad=0.02)
    bar.set_label('class activation, of each image by itself;\nhalf of it and half of the image are shown', fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle('\n'.join(textwrap.wrap(title, 22 * max(columns, 2))), fontsize=9)
    figure.savefig(path, bbox_inches='tight')  # whatever the length of names


def draw_stages(subject: Subject, maps: Sequence[Tensor], channels: int, title: str, path: Path) -> None:
    """Draw what each stage gives for an image: the image, the mean over channels, and some channels, a row a stage.

    Args:
        subject: Image.
        maps: Map of each stage, (1, C, h, w).
        channels: Number of channels, those whose mean over the map is largest.
        title: Title above all images.
        path: Image file to write; its folder is made.
    """
    shown = [_largest(y[0].float().cpu(), channels) for y in maps]
    columns = 2 + max(len(found) for _, found in shown)
    figure = Figure(figsize=(1.5 * columns + 0.8, 1.75 * len(maps) + 0.4), layout='constrained', dpi=_DPI)
    panels = figure.subplots(len(maps), columns, squeeze=False)
    for i, (row, y, (mean, found)) in enumerate(zip(panels, maps, shown, strict=True), 1):
        for panel in row:
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
        row[0].set_ylabel(f'stage {i}\n{y.shape[1]} x {y.shape[2]} x {y.shape[3]}', fontsize=8)
        row[0].imshow(subject.image)
        _draw_map(row[1], mean, subject, 'mean')
        for panel, (channel, values) in zip(row[2:], found, strict=False):
            _draw_map(panel, values, subject, f'channel {channel}')
    bar = figure.colorbar(ScalarMappable(cmap='viridis'), ax=panels, fraction=0.02, aspect=30, pad=0.01)
    bar.set_ticks([0, 1], labels=['least', 'most'], fontsize=7)
    bar.set_label('of each map by itself', fontsize=8)
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches='tight')  # whatever the length of names


def _largest(y: Tensor, count: int) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """The mean over the channels of a map (C, h, w), and the channels of the largest means with their indices."""
    order = y.mean((1, 2)).argsort(descending=True)[:count].tolist()
    return y.mean(0), [(channel, y[channel]) for channel in order]


def _draw_map(panel: Axes, values: Tensor, subject: Subject, title: str) -> None:
    """Draw a map (h, w) in the shape of the image, without what is of padding."""
    size = tuple(subject.x.shape[2:])
    height, width = subject.image.shape[:2]
    large = F.interpolate(values[None, None], size, mode='nearest')[0, 0]
    panel.imshow(large[:height, :width].numpy(), cmap='viridis')
    panel.set_title(title, fontsize=8)


def _short(title: str) -> str:
    return '\n'.join(textwrap.shorten(line, 34, placeholder='...') for line in title.splitlines())
