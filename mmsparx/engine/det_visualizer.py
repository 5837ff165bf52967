"""mmdet's visualizer with one colour for each class. Needs mmdet, so that it is imported by its name alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.visualization import DetLocalVisualizer
from mmdet.visualization.palette import get_palette
from mmengine.structures import InstanceData
from torch import Tensor


class ClassColourVisualizer(DetLocalVisualizer):
    """mmdet's visualizer, which draws each mask in the colour of its class, as it does each box.

    mmdet varies the colours of masks at random, so that those of one class differ between images, and between ground
    truth and prediction.
    """

    _mask_colours: Sequence | None = None

    def _draw_instances(
        self, image: np.ndarray, instances: InstanceData, classes: Sequence[str] | None, palette: Any
    ) -> np.ndarray:
        labels = instances.labels.tolist() if 'labels' in instances else []
        colours = get_palette(palette if self.mask_color is None else self.mask_color, max(labels, default=0) + 1)
        self._mask_colours = [tuple(map(int, colours[label])) for label in labels]
        try:
            return super()._draw_instances(image, instances, classes, palette)
        finally:
            self._mask_colours = None

    def draw_binary_masks(self, binary_masks: np.ndarray | Tensor, colors: Any = 'g', alphas: Any = 0.8) -> Any:
        """Draw masks as mmengine does, but instances in the colours of their classes."""
        colours = colors if self._mask_colours is None else self._mask_colours
        return super().draw_binary_masks(binary_masks, colours, alphas)
