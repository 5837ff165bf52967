"""The selective scan by Triton: block sizes, and the launch of its kernels.

For GPUs without compiled kernels; `mmsparx.ops.triton_runtime` says where they run.

One compiled variant serves every length and batch. Another one is compiled for another kind of GPU, type or N, with
or without D, delta_bias and softplus; for every alignment of the rows (16 bytes, 8, 4 or 2); the forward for
lengths up to 64 and above; for groups of fewer than 16 channels; and for sizes beyond 32 bits. What lies around the
scan of a map is compiled again for every kind of tile (`map_tile`) and alignment of its rows and columns.
"""

import math

import torch
from torch import Tensor

from mmsparx.ops.selective_scan import cross
from mmsparx.ops.selective_scan.reference import CHUNK, state_count, state_dtype
from mmsparx.ops.triton_runtime import current, power_of_two


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """`reference.forward` by Triton."""
    from mmsparx.ops.selective_scan import triton_kernels

    u, delta, B, C = _along(u, delta, B, C)
    A, D, delta_bias = _dense(A, D, delta_bias)
    batch, dim, length = u.shape
    out = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    states = torch.empty((batch, dim, state_count(length), A.shape[1]), dtype=state_dtype(u), device=u.device)
    launch = _Launch('forward', (u, delta, B, C), B.shape[1], dim, out)
    launch(triton_kernels.scan_forward, (u, delta, A, B, C, D, delta_bias, out, states), A.shape[1], delta_softplus)
    return out, states


def backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    states: Tensor,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """`reference.backward` by Triton."""
    from mmsparx.ops.selective_scan import triton_kernels

    grad, u, delta, B, C = _along(grad, u, delta, B, C)
    A, D, delta_bias, states = _dense(A, D, delta_bias, states)
    batch, dim, length = u.shape
    groups, n = B.shape[1:3]
    du, ddelta = (torch.empty(u.shape, dtype=u.dtype, device=u.device) for _ in range(2))
    launch = _Launch('backward', (grad, u, delta, B, C), groups, dim, du)

    def partial(*shape):
        return torch.empty(shape, dtype=states.dtype, device=u.device)

    dA = partial(batch, dim, n)
    dB, dC = (partial(batch, groups, launch.row_blocks, n, length) for _ in range(2))
    dD, ddelta_bias = (None if x is None else partial(batch, dim) for x in (D, delta_bias))
    tensors = (grad, u, delta, A, B, C, D, delta_bias, states, du, ddelta, dA, dB, dC, dD, ddelta_bias)
    launch(triton_kernels.scan_backward, tensors, n, delta_softplus)
    # Added by torch in an order of its own that is always the same: atomics would add in any.
    dB, dC = (x.sum(2).to(B.dtype) for x in (dB, dC))
    dD, ddelta_bias = (None if x is None else x.sum(0) for x in (dD, ddelta_bias))
    return du, ddelta, dA.sum(0), dB, dC, dD, ddelta_bias


def cross_forward(*arguments) -> tuple[Tensor, Tensor]:
    """`cross.forward` by Triton, without the argument `scan`."""
    return cross.forward_with_delta(_cross_forward_with_delta, *arguments)


def cross_backward(*arguments) -> tuple[Tensor | None, ...]:
    """`cross.backward` by Triton, without the argument `differentiate`."""
    return cross.backward_with_delta(_cross_backward_with_delta, *arguments)


def _cross_forward_with_delta(x: Tensor, delta: Tensor, *others) -> tuple[Tensor, Tensor]:
    out, states = forward(to_sequences(x).flatten(1, 2), delta, *others)
    return from_sequences(out.unflatten(1, (4, -1)), *x.shape[2:]), states


def _cross_backward_with_delta(grad: Tensor, x: Tensor, *others) -> tuple[Tensor | None, ...]:
    du, *gradients = backward(to_sequences(grad).flatten(1, 2), to_sequences(x).flatten(1, 2), *others)
    return from_sequences(du.unflatten(1, (4, -1)), *x.shape[2:]), *gradients


def to_sequences(x: Tensor) -> Tensor:
    """`cross_scan` of x (b, D, H, W), of any strides: (b, 4, D, L)."""
    from mmsparx.ops.selective_scan import triton_reorder

    batch, channels, height, width = x.shape
    (rows,) = _along(x.flatten(2))  # a view where a map's rows follow one another, as in a slice of channels
    out = torch.empty((batch, 4, channels, height * width), dtype=x.dtype, device=x.device)
    align = alignment(rows.shape[2], (rows, out), math.gcd(height, width))
    strides = (stride // align for stride in rows.stride()[:-1])
    _reorder(triton_reorder.map_to_sequences, (rows, out), x.shape, align, *strides)
    return out


def from_sequences(y: Tensor, height: int, width: int) -> Tensor:
    """`cross_merge` of y (b, 4, D, L), contiguous, but summed in the state's type and rounded once: (b, D, H, W)."""
    from mmsparx.ops.selective_scan import triton_reorder

    batch, _, channels, length = y.shape
    out = torch.empty((batch, channels, height, width), dtype=y.dtype, device=y.device)
    align = alignment(length, (y, out.flatten(2)), math.gcd(height, width))
    _reorder(triton_reorder.sum_of_sequences, (y, out), out.shape, align)
    return out


def _reorder(kernel, tensors: tuple[Tensor, Tensor], shape: torch.Size, align: int, *strides: int) -> None:
    """Launches one of `triton_reorder`'s kernels for maps of this shape."""
    batch, channels, height, width = shape
    tile = map_tile(channels, height, width)
    sides = ((channels, 'CHANNELS'), (height, 'ROWS'), (width, 'COLUMNS'))
    programs = batch * math.prod(-(-size // tile[name]) for size, name in sides)
    if not programs:
        return  # an empty batch
    sizes = (height * width // align, height // align, width // align, channels, *strides)
    with current(tensors[0].device):
        kernel[(programs,)](*tensors, *sizes, ALIGN=align, **tile)


def _along(*tensors: Tensor) -> list[Tensor]:
    """Neighbouring positions side by side; other strides are left as they are."""
    return [x if x.stride(-1) == 1 else x.contiguous() for x in tensors]


def _dense(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.contiguous() for x in tensors]


# Reasoned from the code compiled for NVIDIA's Hopper, and not yet measured on any GPU. A warp with 128 positions of a
# row has 4 neighbours in each lane: loads of 16 bytes in float32, scanned in registers before lanes exchange theirs.
# Of such tiles 2, 12, 23 and 23 per cent lie past the end at L = 3136, 784, 196 and (of 64) 49; longer ones waste more.
def block(direction: str, channels: int, length: int, align: int) -> dict[str, int]:
    """ROWS, POSITIONS and num_warps of a launch, for groups of so many channels.

    The forward has one warp to a program: no barriers, and many programs even for one image. The backward adds
    up dB and dC over more rows: what it writes of them, per program, is then 1 / ROWS of what it writes of du.
    """
    if direction == 'forward':
        rows, positions, warps = (8, 64, 1) if length <= 64 else (4, 128, 1)
    else:  # with positions one by one, 16 rows need more than the 255 registers of a thread
        rows, positions, warps = (8 if align == 1 else 16), 64, 4
    few = power_of_two(channels)
    return {'ROWS': min(rows, few), 'POSITIONS': positions, 'num_warps': warps if few >= rows else 1}


# Reasoned and not measured, too. Sides of 8 are read and written in whole sectors of 32 bytes by rows and by columns
# alike; 16 pixels to a thread; several channels of a small map to a warp, which then transposes them without a barrier.
# Maps of 7, 14, 28 and 56 pixels a side, as of images of 224, fill 77 per cent of their tiles.
def map_tile(channels: int, height: int, width: int) -> dict[str, int]:
    """CHANNELS, ROWS, COLUMNS and num_warps of a launch over maps of so many channels."""
    rows, columns = (min(max(power_of_two(side), 8), 32) for side in (height, width))
    channels = min(power_of_two(channels), max(512 // (rows * columns), 1))
    warps = max(channels * rows * columns // 512, 1)
    return {'CHANNELS': channels, 'ROWS': rows, 'COLUMNS': columns, 'num_warps': warps}


def alignment(length: int, tensors: tuple[Tensor, ...], side: int = 0) -> int:
    """The largest power of two, of 16 bytes at most, that divides the length and all rows' addresses, in elements.

    side: Another size that it has to divide.
    """
    align = 16 // tensors[0].element_size()
    strides = [stride for x in tensors for stride in x.stride()[:-1]]
    # A length beyond 32 bits, in units of 1, makes positions 64 bits wide in the kernels.
    if length >= 2**31 or any(x.data_ptr() % 16 for x in tensors):
        return 1
    while any(size % align for size in (length, side, *strides)):
        align //= 2
    return align


class _Launch:
    """The grid and the sizes of a launch.

    Args:
        direction: Direction, 'forward' or 'backward'.
        read: Tensors with positions, in the order of the kernel's strides.
        groups, dim: Numbers of groups and channels, as in `selective_scan`.
        written: Tensor with positions that the kernel writes.
    """

    def __init__(self, direction: str, read: tuple[Tensor, ...], groups: int, dim: int, written: Tensor):
        batch, length = written.shape[0], written.shape[2]
        channels = dim // groups
        self.device = written.device
        self.align = alignment(length, (*read, written))
        self.block = block(direction, channels, length, self.align)
        self.row_blocks = -(-channels // self.block['ROWS'])
        self.grid = (batch * groups * self.row_blocks,)
        strides = (stride // self.align for x in read for stride in x.stride()[:-1])
        self.sizes = (length // self.align, groups, channels, self.row_blocks, *strides)

    def __call__(self, kernel, tensors: tuple[Tensor | None, ...], n: int, softplus: bool) -> None:
        if not self.grid[0]:
            return  # an empty batch
        constants = {'N': n, 'PADDED_N': power_of_two(n), 'SOFTPLUS': bool(softplus)}
        with current(self.device):
            kernel[self.grid](*tensors, *self.sizes, **constants, CHUNK=CHUNK, ALIGN=self.align, **self.block)
