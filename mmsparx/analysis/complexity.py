"""Multiply-adds and parameters, counted by one rule, or by the other that the papers have.

The first is SparX's: multiply-adds of convolutions, linear layers and attention products, what an operator's own
formula says, as the selective scan's, and the scan's gate; norms, activations and other elementwise work count nothing.
The second, `norms=True`, is VMamba's, which fvcore counted: norms count as well, and the scan's skip connection once
for each direction. The counter is torch's `FlopCounterMode`, which counts two per multiply-add, so every figure here is
half of its total. Models on the meta device are counted without computing anything.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import mmsparx.ops  # noqa: F401  (registers the scan's formula)


@dataclass
class Complexity:
    """The cost of a forward pass.

    Attributes:
        params: Number of parameters of the model.
        macs_by_op: Multiply-adds by operator; the scans' gates are one of them.
        macs_by_part: Multiply-adds of the parts that were asked for, by their names; parts may lie in each other.
    """

    params: int
    macs_by_op: dict[str, int] = field(default_factory=dict)
    macs_by_part: dict[str, int] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        """Multiply-adds in all, which the papers call FLOPs."""
        return sum(self.macs_by_op.values())

    def __str__(self) -> str:
        rows = sorted(self.macs_by_op.items(), key=lambda row: -row[1])
        lines = [f'{self.params / 1e6:.2f} M parameters, {self.macs / 1e9:.2f} G multiply-adds']
        return '\n'.join(lines + [f'  {macs / 1e9:10.3f} G  {name}' for name, macs in rows])


def complexity(
    model: nn.Module,
    *inputs: Tensor,
    forward: Callable | None = None,
    norms: bool = False,
    parts: Mapping[str, nn.Module] | None = None,
) -> Complexity:
    """Count one forward pass.

    Args:
        model: Model whose parameters are counted; it is run in its present mode.
        inputs: Inputs of the forward pass, on the model's device; meta tensors will do.
        forward: Function to run on the inputs, the model by default.
        norms: Whether to count as fvcore does, too: 5 per element of an affine LayerNorm or GroupNorm (4 of one that is
            not), 2 per element of an affine BatchNorm (1), and the skip connection of the scan of a map, L D, once for
            each of its four directions.
        parts: Modules of the model, by names of their own, that are counted apart as well.
    """
    formulas = _norm_formulas() if norms else {}
    by_part = dict.fromkeys(parts or (), 0)
    with (
        _Gates() as gates,
        FlopCounterMode(display=False, custom_mapping=formulas) as counter,
        torch.no_grad(),
        _counted_apart(parts or {}, by_part, lambda: counter.get_total_flops() // 2 + gates.macs),
    ):
        (forward or model)(*inputs)
    counts = counter.get_flop_counts().get('Global', {})  # it has no entry if nothing counts
    macs = {str(op): flops // 2 for op, flops in counts.items()}
    if gates.macs:
        macs['mmsparx.selective_scan_gate'] = gates.macs
    params = sum(parameter.numel() for parameter in model.parameters())
    return Complexity(params=params, macs_by_op=macs, macs_by_part=by_part)


@contextmanager
def _counted_apart(parts: Mapping[str, nn.Module], counts: dict[str, int], total: Callable[[], int]) -> Iterator[None]:
    """Add the growth of `total` during the calls of a part to the part's count."""
    hooks = []
    for name, part in parts.items():

        def before(module: nn.Module, args: tuple, name: str = name) -> None:
            counts[name] -= total()

        def after(module: nn.Module, args: tuple, output: object, name: str = name) -> None:
            counts[name] += total()

        hooks += [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Gates(TorchDispatchMode):
    """Counts the gates of scans: multiplications, element by element, of what a `selective_scan` gives, as by its z."""

    def __init__(self):
        super().__init__()
        self.macs = 0
        self._scanned = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.mmsparx.selective_scan_fwd.default:
            self._scanned = out[0]
        elif func is torch.ops.aten.mul.Tensor and self._is_gated(*args):
            self.macs += out.numel()
        return out

    def _is_gated(self, *factors: Tensor | float) -> bool:
        """Whether one factor is what a scan gave and the other, of its shape, a gate."""
        shapes = [x.shape for x in factors if torch.is_tensor(x)]
        return any(x is self._scanned for x in factors) and shapes == shapes[:1] * 2


def _norm_formulas() -> dict:
    """Formulas of the second rule in the counter's form, which has two for each multiply-add."""

    def layer_norm(input_shape, normalized_shape, weight=None, *_, out_shape=None, **__) -> int:
        return 2 * (4 if weight is None else 5) * math.prod(input_shape)

    def group_norm(input_shape, weight=None, *_, out_shape=None, **__) -> int:
        return 2 * (4 if weight is None else 5) * math.prod(input_shape)

    def batch_norm(input_shape, weight=None, *_, out_shape=None, **__) -> int:
        return 2 * (1 if weight is None else 2) * math.prod(input_shape)

    def scan(x_shape, step_shape, *others, out_shape=None, **options) -> int:
        directions = step_shape[1]
        return scan_alone(x_shape, step_shape, *others, **options) + 2 * (directions - 1) * math.prod(x_shape)

    aten = torch.ops.aten
    operator = torch.ops.mmsparx.cross_selective_scan_fwd
    scan_alone = flop_registry[operator]
    batch_norms = (
        'native_batch_norm',
        '_native_batch_norm_legit',
        '_native_batch_norm_legit_no_training',
        'cudnn_batch_norm',
        'miopen_batch_norm',
        '_batch_norm_with_update',
        '_batch_norm_no_update',
    )
    found = [getattr(aten, name) for name in batch_norms if hasattr(aten, name)]
    return {
        aten.native_layer_norm: layer_norm,
        aten.native_group_norm: group_norm,
        torch.ops.mmsparx.map_norm: group_norm,
        operator: scan,
        **dict.fromkeys(found, batch_norm),
    }


def two_stage_complexity(
    detector: nn.Module,
    height: int,
    width: int,
    proposals: int = 1000,
    norms: bool = False,
    parts: Mapping[str, nn.Module] | None = None,
) -> Complexity:
    """Count a two-stage detector of mmdet as its papers do, whatever its weights propose.

    Backbone, neck and RPN head on one image, the box head on `proposals` regions, and the mask head,
    if there is one, on the 100 that are kept.

    Args:
        detector: Detector of mmdet's class `TwoStageDetector` on the meta device.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        proposals: Number of regions that reach the box head.
        norms: See `complexity`.
        parts: See `complexity`.

    Raises:
        ValueError: The model is on another device.
    """
    if any(parameter.device.type != 'meta' for parameter in detector.parameters()):
        raise ValueError("two_stage_complexity: expected a model on the meta device, as model.to('meta') gives")

    def forward(image: Tensor) -> None:
        features = detector.neck(detector.backbone(image))
        detector.rpn_head(features)
        roi_head = detector.roi_head
        roi_head.bbox_head(_regions(roi_head.bbox_roi_extractor, proposals))
        if roi_head.with_mask:
            roi_head.mask_head(_regions(roi_head.mask_roi_extractor, min(100, proposals)))

    image = torch.empty(1, 3, height, width, device='meta')
    return complexity(detector.eval(), image, forward=forward, norms=norms, parts=parts)


def _regions(extractor: nn.Module, count: int) -> Tensor:
    return torch.empty(count, extractor.out_channels, *extractor.roi_layers[0].output_size, device='meta')
