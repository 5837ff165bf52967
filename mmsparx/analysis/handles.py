"""The operators' formulas for counters over traced graphs, which take them operator by operator."""

import math
from collections.abc import Callable

import torch
from torch.utils.flop_counter import flop_registry

import mmsparx.ops  # noqa: F401  (registers their formulas)


def jit_handles() -> dict[str, Callable]:
    """Handles of this package's operators for fvcore's `FlopCountAnalysis` and mmengine's `FlopAnalyzer`.

    They do not see these otherwise: `FlopCountAnalysis(model, inputs).set_op_handle(**jit_handles())`. Norms count 5
    for each element, as these counters have it.

    Returns:
        Multiply-adds of a node of a traced graph, by the operator's name.
    """

    def handle(formula: Callable) -> Callable:
        def count(inputs: list, outputs: list) -> int:
            shapes = [x.type().sizes() if isinstance(x.type(), torch.TensorType) else None for x in inputs]
            return formula(*shapes)

        return count

    ops = torch.ops.mmsparx
    counted = (ops.selective_scan_fwd, ops.cross_selective_scan_fwd, ops.depthwise_conv2d)
    # torch counts two for each multiply-add.
    formulas = {op.__name__: lambda *shapes, op=op: flop_registry[op](*shapes) // 2 for op in counted}
    formulas['map_norm'] = lambda x_shape, *_: 5 * math.prod(x_shape)
    return {f'mmsparx::{name}': handle(formula) for name, formula in formulas.items()}
