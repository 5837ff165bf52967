"""Multiply-adds and parameters, counted by one rule.

The rule is the papers': multiply-adds of convolutions, linear layers and attention products, and
what an operator's own formula says, as the selective scan's; norms, activations and other
elementwise work count nothing. The counter is torch's `FlopCounterMode`, which counts two per
multiply-add, so every figure here is half of its total. Models on the meta device are counted
without computing anything.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import mmsparx.ops  # noqa: F401  (registers the scan's formula)


@dataclass
class Complexity:
    """What a forward pass costs.

    Attributes:
        params: parameters of the model.
        macs_by_op: multiply-adds by operator.
    """

    params: int
    macs_by_op: dict[str, int] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        """Multiply-adds in all, which the papers call FLOPs."""
        return sum(self.macs_by_op.values())

    def __str__(self) -> str:
        rows = sorted(self.macs_by_op.items(), key=lambda row: -row[1])
        lines = [f'{self.params / 1e6:.2f} M parameters, {self.macs / 1e9:.2f} G multiply-adds']
        return '\n'.join(lines + [f'  {macs / 1e9:10.3f} G  {name}' for name, macs in rows])


def complexity(model: nn.Module, *inputs: Tensor, forward: Callable | None = None) -> Complexity:
    """Count one forward pass.

    Args:
        model: whose parameters are counted; it is run in its present mode.
        inputs: of the forward pass, on the model's device; meta tensors will do.
        forward: what to run on the inputs, the model by default.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        (forward or model)(*inputs)
    counts = counter.get_flop_counts()['Global']
    return Complexity(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs_by_op={str(op): flops // 2 for op, flops in counts.items()},
    )


def two_stage_complexity(detector: nn.Module, height: int, width: int, proposals: int = 1000) -> Complexity:
    """Count a two-stage detector of mmdet as its papers do, whatever its weights propose.

    Backbone, neck and RPN head on one picture, the box head on `proposals` regions, and the mask head,
    if there is one, on the 100 that are kept.

    Args:
        detector: an mmdet `TwoStageDetector` on the meta device.
        height, width: of the picture, in pixels.
        proposals: regions that reach the box head.

    Raises:
        ValueError: the model is on another device.
    """
    if any(parameter.device.type != 'meta' for parameter in detector.parameters()):
        raise ValueError("two_stage_complexity: expected a model on the meta device, as model.to('meta') gives")

    def forward(picture: Tensor) -> None:
        features = detector.neck(detector.backbone(picture))
        detector.rpn_head(features)
        roi_head = detector.roi_head
        roi_head.bbox_head(_regions(roi_head.bbox_roi_extractor, proposals))
        if roi_head.with_mask:
            roi_head.mask_head(_regions(roi_head.mask_roi_extractor, min(100, proposals)))

    return complexity(detector.eval(), torch.empty(1, 3, height, width, device='meta'), forward=forward)


def _regions(extractor: nn.Module, count: int) -> Tensor:
    return torch.empty(count, extractor.out_channels, *extractor.roi_layers[0].output_size, device='meta')
