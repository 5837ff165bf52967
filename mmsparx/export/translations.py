"""The package's operators as standard nodes of ONNX; for the scans, see `forms` and `scan_functions`."""

from collections.abc import Callable

import torch
from onnxscript import opset18 as op


def table() -> dict[Callable, Callable]:
    """Functions that make the nodes of an operator, by operator, for `torch.onnx.export`."""
    return {
        torch.ops.mmsparx.depthwise_conv2d.default: _depthwise_conv2d,
        torch.ops.mmsparx.map_norm.default: _map_norm,
    }


def _depthwise_conv2d(x, weight, bias, residual, activation, backend):
    channels, _, side, _ = weight.shape
    inputs = (x, weight) if bias is None else (x, weight, bias)
    z = op.Conv(*inputs, group=channels, kernel_shape=[side, side], pads=[side // 2] * 4)
    if residual:
        z = op.Add(x, z)
    if activation == 'silu':
        return op.Mul(z, op.Sigmoid(z))
    if activation == 'gelu':  # in the form that onnxruntime and OpenVINO take for one operation
        inner = op.Add(op.Erf(op.Div(z, op.Constant(value_float=2**0.5))), op.Constant(value_float=1.0))
        return op.Mul(op.Mul(z, inner), op.Constant(value_float=0.5))
    return z


def _map_norm(x, weight, bias, eps, backend):
    rows = op.Reshape(x, op.Constant(value_ints=[0, 1, -1]))
    one, zero = op.Constant(value_floats=[1.0]), op.Constant(value_floats=[0.0])
    normalised = op.Reshape(op.InstanceNormalization(rows, one, zero, epsilon=eps), op.Shape(x))
    axes = op.Constant(value_ints=list(range(1, len(x.shape) - 1)))
    out = op.Add(op.Mul(normalised, op.Unsqueeze(weight, axes)), op.Unsqueeze(bias, axes))
    return out, one, zero  # placeholders for the backward's tensors
