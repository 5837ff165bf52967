"""The scans' formulas for counters over traced graphs, which take them operator by operator."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import flop_registry

import mmsparx.ops  # noqa: F401  (registers the scans' formulas)


def jit_handles() -> dict[str, Callable]:
    """Handles of the scans for fvcore's `FlopCountAnalysis` and mmengine's `FlopAnalyzer`.

    They do not see the scans otherwise: `FlopCountAnalysis(model, inputs).set_op_handle(**jit_handles())`.

    Returns:
        Multiply-adds of a node of a traced graph, by the operator's name.
    """

    def handle(operator: torch._ops.OpOverloadPacket) -> Callable:
        formula = flop_registry[operator]

        def count(inputs: list, outputs: list) -> int:
            shapes = [x.type().sizes() if isinstance(x.type(), torch.TensorType) else None for x in inputs]
            return formula(*shapes) // 2  # torch counts two for each multiply-add

        return count

    operators = (torch.ops.mmsparx.selective_scan_fwd, torch.ops.mmsparx.cross_selective_scan_fwd)
    return {f'mmsparx::{operator.__name__}': handle(operator) for operator in operators}
