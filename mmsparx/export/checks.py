"""Whether a file gives what the model gives, and where it does not."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

# Tolerance relative to the largest value of an output.
TOLERANCE = 1e-4


class DisagreementError(ValueError):
    """An exported file, or a changed model, gives other numbers than the model."""


@dataclass(frozen=True)
class Difference:
    """The difference between the outputs of a file and those of a model.

    Attributes:
        error: Largest error, relative to the largest value of its output.
        single: Number of detections that only one of them has.
    """

    error: float
    single: int = 0


def images(traced: tuple[int, int, int], open_axes: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    """Images to compare by: of the traced size and, where sizes are open, of three others.

    These are an odd size that is no square, a long one, both with another batch, and the smallest, 32x32.

    Args:
        traced: Batch, height and width of the image that the graph was traced with.
        open_axes: Axes of the image whose sizes are open.
        seed: Seed of the values, which are normally distributed.
    """
    shapes = [traced]
    if open_axes:
        shapes += [(1, 97, 131), (3, 96, 192), (2, 32, 32)]
        if 0 not in open_axes:
            shapes = [(1, *size) for _, *size in shapes]
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((b, 3, height, width), dtype=np.float32) for b, height, width in shapes]


def run_torch(module: Callable, image: np.ndarray) -> list[np.ndarray]:
    """The outputs of a module, or a method of one, that takes an image."""
    with torch.inference_mode():
        return [output.numpy() for output in module(torch.from_numpy(image))]


def largest_error(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest error of the outputs, each relative to its largest value; infinite for other shapes, or NaN."""
    assert len(found) == len(expected)
    return max(_error(*pair) for pair in zip(found, expected, strict=True))


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float('inf')
    if expected.size == 0:
        return 0.0
    largest = np.abs(expected.astype(np.float64)).max()
    error = np.abs(found.astype(np.float64) - expected).max()
    return float(error / largest) if largest else float(error)


class Layers(nn.Module):
    """A module with the outputs of the modules in it as further outputs, in the order in which they are done.

    Args:
        module: Module that takes an image and returns a tuple of tensors.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = copy.deepcopy(module)
        self.names: list[str] = []

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        taken: list[tuple[str, Tensor]] = []

        def hook(name: str) -> Callable:
            def take(_module, _inputs, output) -> None:
                if isinstance(output, Tensor) and output.is_floating_point() and output.dim():
                    taken.append((name, output))

            return take

        # The hooks are only for this call, since a copy of this module would have those of the original.
        handles = [
            part.register_forward_hook(hook(name))
            for name, part in self.module.named_modules()
            if name and not isinstance(part, nn.Identity)
        ]
        try:
            outputs = self.module(image)
        finally:
            for handle in handles:
                handle.remove()
        # An output that is another one's, too, is its first owner's: a graph has each once.
        seen, self.names, values = {id(output) for output in outputs}, [], []
        for name, value in taken:
            if id(value) not in seen:
                seen.add(id(value))
                self.names.append(name)
                values.append(value)
        return (*outputs, *values)


def first_difference(names: Sequence[str], found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> str | None:
    """The first layer whose output differs by more than the tolerance, in words; None where none does."""
    for name, *pair in zip(names, found, expected, strict=True):
        if (error := _error(*pair)) > TOLERANCE:
            shapes = '' if pair[0].shape == pair[1].shape else f', of shape {pair[0].shape} instead of {pair[1].shape}'
            return f'{name} (error {error:.1e}{shapes})'
    return None


def part_of(file: Path) -> Path:
    """The name under which a file is written until it is checked, in its folder."""
    return file.with_name(f'.{file.stem}.part{file.suffix}')
