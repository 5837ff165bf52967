"""The depthwise convolution by Triton: block sizes, and the launch of its kernels.

The forward is one pass over memory. So is the backward without activation; with one, a pass before it computes the
gradient of what is before the activation, in x's type. Partial sums of the parameters' gradients are added up in one
order, so results are the same bits at every run.
"""

import torch
from torch import Tensor

from mmsparx.ops.depthwise_conv import reference
from mmsparx.ops.selective_scan.reference import state_dtype
from mmsparx.ops.triton_runtime import current, power_of_two

# Reasoned from the code compiled for NVIDIA's Hopper, and not measured on a GPU. A program is one warp, so rows are
# added up without a barrier. With two pixels to a lane a pixel takes a sixth fewer instructions than with one; but the
# backward of a 5x5 window, which has 25 sums a pixel, takes 217 registers then, and 126 with one. 4096 programs are 31
# warps on each of an H200's multiprocessors; the number does not depend on the GPU, so results do not.
PIXELS = 64
PIXELS_OF_MANY_SUMS = 32
PROGRAMS = 4096
FEWEST_ROWS = 16  # a block of rows reads as many more as a window has around its centre
MOST_TERMS = 256  # terms that a lane sums, one after the other


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool, activation: str) -> Tensor:
    """`reference.forward` by Triton."""
    if x.numel() == 0:
        return reference.forward(x, weight, bias, residual, activation)
    x, weight = x.contiguous(), weight.contiguous()
    return _convolve(x, weight, bias, None, residual, activation)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.backward` by Triton."""
    from mmsparx.ops.depthwise_conv import triton_kernels

    if x.numel() == 0:
        return reference.backward(grad, x, weight, bias, residual, activation)
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    if activation != 'none':
        grad = _convolve(x, weight, bias, grad, residual, activation)
    batch, channels, height, width = x.shape
    side = weight.shape[-1]
    columns, planes, rows = tile(*x.shape, PIXELS if side == 3 else PIXELS_OF_MANY_SUMS)
    column_blocks, row_blocks, blocks = -(-width // columns), -(-height // rows), -(-channels // planes)
    samples = samples_of_a_program(batch, rows, row_blocks * column_blocks * blocks)
    parts = -(-batch // samples) * row_blocks * column_blocks
    partial = x.new_empty((parts, channels, side * side + 1), dtype=state_dtype(x))
    dx = torch.empty_like(x)
    with current(x.device):
        triton_kernels.gradients[(parts * blocks,)](
            *(grad, x, weight, dx, partial),
            *(batch, channels, height, width, rows, row_blocks, column_blocks, samples),
            SIDE=side,
            RESIDUAL=residual,
            PLANES=planes,
            COLUMNS=columns,
            num_warps=1,
        )
    dweight = partial[..., :-1].sum(0).to(weight.dtype).view(weight.shape)
    dbias = weight.new_empty(0) if bias is None else partial[..., -1].sum(0).to(bias.dtype)
    return dx, dweight, dbias


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor | None, residual: bool, activation: str
) -> Tensor:
    from mmsparx.ops.depthwise_conv import triton_kernels

    batch, channels, height, width = x.shape
    columns, planes, rows = tile(*x.shape, PIXELS)
    column_blocks, row_blocks, blocks = -(-width // columns), -(-height // rows), -(-channels // planes)
    out = torch.empty_like(x)
    with current(x.device):
        triton_kernels.convolve[(batch * blocks * row_blocks * column_blocks,)](
            *(x, weight, None if bias is None else bias.contiguous(), grad, out),
            *(channels, height, width, rows, row_blocks, column_blocks),
            SIDE=weight.shape[-1],
            RESIDUAL=residual,
            ACTIVATION=activation,
            PLANES=planes,
            COLUMNS=columns,
            num_warps=1,
        )
    return out


def tile(batch: int, channels: int, height: int, width: int, pixels: int) -> tuple[int, int, int]:
    """COLUMNS, PLANES and rows of a program of so many pixels a row: fewer rows than a map has where maps are few."""
    columns = min(power_of_two(width), pixels)
    # Few columns should lie beyond the map's last one, but programs must not be too small.
    while columns > 16 and (-width % columns) * 4 > width:
        columns //= 2
    planes = pixels // columns
    programs = batch * -(-channels // planes) * -(-width // columns)
    blocks = min(-(-PROGRAMS // programs), max(height // FEWEST_ROWS, 1))
    return columns, planes, -(-height // blocks)


def samples_of_a_program(batch: int, rows: int, programs: int) -> int:
    """Number of samples that one program of the backward sums, if one sample has `programs` programs."""
    most = max(MOST_TERMS // rows, 1)
    return min(most, max(batch * programs // PROGRAMS, 1), batch)
