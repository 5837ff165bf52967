"""Tracing of a module to a graph of torch.export."""

import copy
import warnings
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mmsparx.export.forms import sequence_nodes, use_forms

# Image that a graph of open sizes is traced with: batch, height, width; no two sizes are the same on any stage.
OPEN = (2, 128, 160)


def trace(module: nn.Module, image: Tensor, *, open_axes: Sequence[int], scan_nodes: bool) -> ExportedProgram:
    """Trace a module that takes an image.

    Args:
        module: Module in evaluation mode; it stays as it is.
        image: (B, 3, H, W).
        open_axes: Axes of the image whose sizes are open.
        scan_nodes: See `use_forms`.

    Returns:
        The graph; with scan nodes it is for ONNX, and does not run.
    """
    from torch.fx.experimental import _config

    module = copy.deepcopy(module)
    use_forms(module, scan_nodes=scan_nodes)
    shapes = (dict.fromkeys(open_axes, Dim.DYNAMIC),) if open_axes else None
    # Maps of one position, and batches of one image, are not special cases.
    nodes = sequence_nodes() if scan_nodes else nullcontext()
    with torch.no_grad(), nodes, _config.patch(backed_size_oblivious=True), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return torch.export.export(module, (image,), dynamic_shapes=shapes, strict=False)
