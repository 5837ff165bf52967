"""The figures of a model at a size of its images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmsparx.cli.analyze.accuracy import Accuracies


@dataclass(frozen=True)
class Row:
    """A model at a size: what was measured and counted, and what the paper prints.

    Attributes:
        model: Label of the model.
        weights: Description of its weights.
        size: Side of the images, in pixels.
        crop_ratio: Crop ratio of the test.
        params: Number of parameters.
        macs, macs_with_norms: Multiply-adds by the two rules of the papers.
        accuracies: Measured accuracies; None without images.
        paper_gflops, paper_top1: Figures of the paper; None where it has none.
    """

    model: str
    weights: str
    size: int
    crop_ratio: float
    params: int
    macs: int
    macs_with_norms: int
    accuracies: 'Accuracies | None' = None
    paper_gflops: float | None = None
    paper_top1: float | None = None
