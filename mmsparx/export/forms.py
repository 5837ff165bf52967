"""Modules in a form that a graph of open sizes can have: the same results, without decisions that depend on a size.

Tracing follows one side of a decision and writes sizes that became Python integers into the graph. Each form below
stands for the forward of a module whose own would have that, on a copy of the model.
"""

import math
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsparx.export import scan_names
from mmsparx.layers.attention import attend
from mmsparx.layers.basic import PatchMerging, PatchStem
from mmsparx.layers.mixers import SS2D, WindowAttention, ssm


def use_forms(model: nn.Module, *, scan_nodes: bool) -> None:
    """Give the modules of a model, in place, their forms for export.

    Args:
        model: Copy of a model.
        scan_nodes: Whether the scan of a map becomes a node of ONNX, in the order of the image, instead of the
            package's operator. Such a model can be traced, and does not run.
    """
    for module in model.modules():
        if scan_nodes and isinstance(module, SS2D):
            module.scan = types.MethodType(_scan_node, module)
        form = _form_of(module)
        if form is not None:
            module.forward = types.MethodType(form, module)


def _form_of(module: nn.Module) -> Callable | None:
    for kind, form in _FORMS.items():
        if type(module) is kind:
            return form
    # The class is compared by name, since mmseg may not be installed.
    if type(module).__module__.startswith('mmseg.') and type(module).__name__ == 'Upsample' and not module.size:
        return _upsample
    return None


def _scan_node(self: SS2D, x: Tensor) -> Tensor:
    """`SS2D.scan` as one node: (B, D, H, W) -> (B, D, H, W)."""
    parts = F.conv2d(x, self.x_proj_weight.unsqueeze(-1))  # (B, 4 * (R + 2n), H, W)
    inputs = (x, parts, self.dt_proj_weight, self.dt_proj_bias, -torch.exp(self.A_log), self.D)
    name = f'{scan_names.DOMAIN}::{scan_names.MAPS}'
    return torch.onnx.ops.symbolic(name, inputs, dtype=x.dtype, shape=x.shape, version=scan_names.VERSION)


@contextmanager
def sequence_nodes() -> Iterator[None]:
    """Make the scan of the mixers of sequences one node of ONNX."""
    kept, ssm.selective_scan = ssm.selective_scan, _sequence_node
    try:
        yield
    finally:
        ssm.selective_scan = kept


def _sequence_node(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    delta_softplus: bool,
    backend: str,
) -> Tensor:
    """`selective_scan` as `gated_scan` calls it."""
    assert delta_softplus
    name = f'{scan_names.DOMAIN}::{scan_names.SEQUENCES}'
    inputs = (u, delta, A, B.unsqueeze(1), C.unsqueeze(1), D, delta_bias)
    return F.silu(z) * torch.onnx.ops.symbolic(name, inputs, dtype=u.dtype, shape=u.shape, version=scan_names.VERSION)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """`mmsparx.layers.basic.pad_to_multiple` that also pads by 0."""
    # A quotient of negative sizes would not work, since ONNX rounds it the other way.
    bottom, right = ((side + multiple - 1) // multiple * multiple - side for side in x.shape[2:])
    return F.pad(x, (0, right, 0, bottom))


def _patch_stem(self: PatchStem, x: Tensor) -> Tensor:
    return nn.Sequential.forward(self, pad_to_multiple(x, 4))


def _patch_merging(self: PatchMerging, x: Tensor) -> Tensor:
    x = pad_to_multiple(x, 2)
    x = torch.cat([x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)], 1)
    return self.reduction(self.norm(x))


def _window_attention(self: WindowAttention, x: Tensor, *sources: Tensor) -> Tensor:
    """`WindowAttention.forward`; the shift is 0 along a side of no more than a window."""
    height, width = x.shape[2:]
    w = self.window_size
    qkv = self.qkv(x, *sources) if self.aggregated else x
    qkv = pad_to_multiple(qkv, w)
    qkv = qkv if self.aggregated else self.qkv(qkv)
    bias = self._position_bias()
    if self.shift:
        positions = [torch.arange(size, device=x.device) for size in qkv.shape[2:]]
        shifts = [self.shift * (_size(side, x) > w) for side in (height, width)]
        for axis, (position, shift) in enumerate(zip(positions, shifts, strict=True), 2):
            qkv = qkv.index_select(axis, (position + shift) % _size(position.shape[0], x))
        # The part of a shifted axis that a position belongs to; all are of one where there is no shift.
        rows, columns = (
            ((position >= position.shape[0] - w).long() + (position >= position.shape[0] - self.shift)) * (shift > 0)
            for position, shift in zip(positions, shifts, strict=True)
        )
        parts = (3 * rows[:, None] + columns)[None, None]
        bias = bias + self._between_parts(parts, bias)
    query, key, value = self._windows(qkv).unbind(2)
    out = self._map(attend(query, key, value, bias), *qkv.shape[2:])
    if self.shift:
        for axis, (position, shift) in enumerate(zip(positions, shifts, strict=True), 2):
            out = out.index_select(axis, (position + position.shape[0] - shift) % _size(position.shape[0], x))
    return self.proj(out)[:, :, :height, :width].contiguous()


def _size(side: int, like: Tensor) -> Tensor:
    """A size as a tensor, so that what is decided by it is decided when the graph runs."""
    return torch.full((1,), 1, dtype=torch.long, device=like.device) * side


def _adaptive_avg_pool(self: nn.AdaptiveAvgPool2d, x: Tensor) -> Tensor:
    """Averages over bins as two products with matrices of shares, whatever the sizes divide by."""
    sizes = self.output_size if isinstance(self.output_size, (tuple, list)) else (self.output_size,) * 2
    across, down = (
        None if size is None else _shares(x.shape[axis], size, x)
        for axis, size in zip((3, 2), sizes[::-1], strict=True)
    )
    x = x if across is None else x @ across.transpose(0, 1)
    return x if down is None else down @ x


def _shares(side: int, bins: int, like: Tensor) -> Tensor:
    """(bins, side): the share of each position in the average of each bin."""
    position = torch.arange(side, device=like.device)
    number = torch.arange(bins, device=like.device)[:, None]
    start, end = number * side // bins, ((number + 1) * side + bins - 1) // bins
    inside = (position >= start) & (position < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


def _upsample(self: nn.Module, x: Tensor) -> Tensor:
    """mmseg's `Upsample` by a whole factor, whose own turns sizes into integers."""
    factors = self.scale_factor if isinstance(self.scale_factor, tuple) else (self.scale_factor,) * 2
    if any(factor != math.floor(factor) for factor in factors):
        raise ValueError(f"export: expected mmseg's Upsample by a whole factor, got {self.scale_factor}")
    size = [side * int(factor) for side, factor in zip(x.shape[2:], factors, strict=True)]
    return F.interpolate(x, size, mode=self.mode, align_corners=self.align_corners)


_FORMS = {
    PatchStem: _patch_stem,
    PatchMerging: _patch_merging,
    WindowAttention: _window_attention,
    nn.AdaptiveAvgPool2d: _adaptive_avg_pool,
}
