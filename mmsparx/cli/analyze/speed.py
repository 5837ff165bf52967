"""Throughput and memory of several models on the same images."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmsparx.analysis.precision import PRECISIONS, products_in_tf32
from mmsparx.analysis.saved import kept_bytes
from mmsparx.analysis.timing import Protocol, Timing, clock_of, interleave, is_of_memory, peak_memory, reason_of
from mmsparx.cli.named_model import NamedModel


@dataclass(frozen=True)
class Speed:
    """Measurements of a model.

    Attributes:
        timing: Seconds of its calls, or why there are none.
        peak_bytes: Largest memory on a GPU: weights, images, and what a call takes; None elsewhere.
        saved_bytes: Bytes for each image that a forward pass keeps for the backward one; None where it fails.
    """

    timing: Timing
    peak_bytes: int | None
    saved_bytes: int | None


def measure(
    models: Sequence[NamedModel], size: int, batch: int, protocol: Protocol, precision: str
) -> dict[str, Speed]:
    """Time inference in turns, on images of noise; what fails, as for want of memory, has its reason in its timing.

    Args:
        models: Models in evaluation mode, on one device; they are made to take the size.
        size: Side of the images, in pixels.
        batch: Images in a call.
        protocol: Protocol of the measurement.
        precision: Name in `PRECISIONS`.

    Returns:
        What was measured, by the label of the model.
    """
    device = next(models[0].module.parameters()).device
    autocast, tf32 = PRECISIONS[precision]
    failed, calls = {}, {}
    try:
        images = torch.randn(batch, 3, size, size, device=device)
    except RuntimeError as error:  # no memory for the images alone
        failed = {model.label: Timing(skipped=reason_of(error)) for model in models}
    else:
        for model in models:
            try:
                calls[model.label] = _inference(model.at_size(size), images, autocast)
            except ValueError as error:
                failed[model.label] = Timing(skipped=reason_of(error))
    with products_in_tf32(tf32):
        timings = {**failed, **interleave(calls, protocol, clock_of(device))}
        found = {}
        for model in models:
            timing, peak, saved = timings[model.label], None, None
            if timing.skipped is None:
                beyond = peak_memory(calls[model.label], device)
                peak = None if beyond is None else beyond + _weight_bytes(model) + images.nbytes
                saved = _saved_by_an_image(model, size, device, autocast)
            found[model.label] = Speed(timing, peak, saved)
    calls.clear()
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()
    return found


def _inference(model: NamedModel, images: Tensor, autocast: torch.dtype | None) -> Callable[[], Tensor]:
    def infer() -> Tensor:
        with torch.inference_mode(), torch.autocast(images.device.type, autocast, enabled=autocast is not None):
            return model.module(images)

    return infer


def _weight_bytes(model: NamedModel) -> int:
    return sum(x.nbytes for x in (*model.module.parameters(), *model.module.buffers()))


def _saved_by_an_image(model: NamedModel, size: int, device: torch.device, autocast: torch.dtype | None) -> int | None:
    """Bytes that a second image adds: copies of weights in 16 bits are kept once for all images."""

    def saved(count: int) -> int:
        images = torch.randn(count, 3, size, size, device=device)

        def forward() -> Tensor:
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                return model.module(images)

        return kept_bytes(forward, device)

    try:
        return saved(2) - saved(1)
    except (RuntimeError, MemoryError) as error:
        if not is_of_memory(error):
            raise
        return None
