"""The norm over whole maps by Triton: block sizes, and the launch of its kernels.

Each way memory is passed over twice: for the sums, and for what is written. Partial sums are added up in one order, so
results are the same bits at every run.
"""

import torch
from torch import Tensor

from mmsparx.ops.map_norm import reference
from mmsparx.ops.selective_scan.reference import state_dtype
from mmsparx.ops.triton_runtime import alignment, current, power_of_two

# Reasoned and not measured on a GPU. A lane of a program has 8 numbers at a time, in 16 bits 16 bytes. 1024 programs
# are eight for each of an H200's multiprocessors; the number does not depend on the GPU, so results do not.
BLOCK = 1024
WARPS = 4
PROGRAMS = 1024
MOST_PARTS = 512


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.forward` by Triton."""
    from mmsparx.ops.map_norm import triton_kernels

    if x.numel() == 0:
        return reference.forward(x, weight, bias, eps)
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    batch, channels = x.shape[:2]
    size = x[0].numel()
    out = torch.empty_like(x)
    mean = x.new_empty(batch, dtype=state_dtype(x))
    rstd = torch.empty_like(mean)
    count, chunk = parts(batch, size)
    partial = mean.new_empty(batch, count, 3)
    align = alignment(x, size)
    with current(x.device):
        triton_kernels.part_statistics[(batch * count,)](
            x, partial, size // align, count, chunk, ALIGN=align, BLOCK=BLOCK, num_warps=WARPS
        )
        align = alignment(x, size // channels)
        tiles = -(-size // BLOCK)
        triton_kernels.normalise[(batch * tiles,)](
            *(x, partial, weight, bias, out, mean, rstd),
            *(size // align, size // channels // align, count, tiles),
            EPS=eps,  # an argument would be rounded to float32
            ALIGN=align,
            GROUPS=BLOCK // align,
            PADDED_PARTS=power_of_two(count),
            num_warps=WARPS,
        )
    return out, mean, rstd


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.backward` by Triton."""
    from mmsparx.ops.map_norm import triton_kernels

    if x.numel() == 0:
        return reference.backward(grad, x, weight, bias, mean, rstd, eps)
    grad, x, weight, mean, rstd = (tensor.contiguous() for tensor in (grad, x, weight, mean, rstd))
    batch, channels = x.shape[:2]
    size = x[0].numel()
    length = size // channels
    align = alignment(x, length, grad)
    rows, positions, chunk = channel_tile(batch * channels, length)
    chunks = -(-length // (positions * chunk))
    sums = mean.new_empty(2, batch, channels, chunks)
    with current(x.device):
        triton_kernels.channel_sums[(-(-batch * channels // rows) * chunks,)](
            *(grad, x, mean, rstd, sums),
            *(batch, channels, length // align, chunk, chunks),
            ALIGN=align,
            ROWS=rows,
            POSITIONS=positions,
            num_warps=WARPS,
        )
        dbias, dweight = (each.sum((0, 2)) for each in sums)
        weighted = (sums * weight.to(mean.dtype).view(-1, 1)).sum((2, 3))
        tiles = -(-size // BLOCK)
        dx = torch.empty_like(x)
        triton_kernels.gradient[(batch * tiles,)](
            *(grad, x, weight, mean, rstd, weighted, dx),
            *(batch, size // align, length // align, tiles),
            ALIGN=align,
            GROUPS=BLOCK // align,
            num_warps=WARPS,
        )
    return dx, dweight.to(weight.dtype), dbias.to(bias.dtype)


def parts(batch: int, size: int) -> tuple[int, int]:
    """Number of parts of a sample of `size` numbers, and of the blocks of each: as many parts as fill a GPU."""
    blocks = -(-size // BLOCK)
    wanted = min(-(-PROGRAMS // batch), MOST_PARTS, -(-blocks // 4))
    chunk = -(-blocks // wanted)
    return -(-blocks // chunk), chunk


def channel_tile(rows: int, length: int) -> tuple[int, int, int]:
    """ROWS and POSITIONS of a tile of the backward's sums, and the number of tiles that a program adds up.

    Args:
        rows: Number of channels of all samples.
        length: Number of positions of a channel.
    """
    positions = min(power_of_two(length), 512)
    # Less than one eighth of a channel's tiles lie behind its end.
    while positions > 64 and (-length % positions) * 8 > length:
        positions //= 2
    tile_rows = BLOCK // positions
    tiles = -(-length // positions)
    programs = -(-rows // tile_rows)
    chunks = min(tiles, max(PROGRAMS // programs, 1))
    return tile_rows, positions, -(-tiles // chunks)
