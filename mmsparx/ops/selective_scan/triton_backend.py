"""The selective scan by Triton: whether it can run, block sizes, and the launch of its kernels.

For GPUs without compiled kernels: Triton comes with torch and compiles when a scan first runs. It is imported
then, not before. TRITON_INTERPRET=1 runs the kernels on a CPU, slowly: for tests.

One compiled variant serves every length and batch. Compiled anew is for another kind of GPU, type or N, with or
without D, delta_bias and softplus; for every alignment of the rows (16 bytes, 8, 4 or 2); the forward for
lengths up to 64 and above; for groups of fewer than 16 channels; and for sizes beyond 32 bits.
"""

import importlib.util
import os
from contextlib import nullcontext
from functools import cache

import torch
from torch import Tensor

from mmsparx.ops.selective_scan.reference import CHUNK, state_count, state_dtype

DEVICES = ('cuda',)  # ROCm's, too
INTERPRET = 'TRITON_INTERPRET'
OLDEST = (3, 2)  # of torch 2.6; the compilers of 3.0 and 3.1 crash on the backward, and take Python with them


@cache
def missing() -> str | None:
    """Why there is no Triton, or None; it is not imported."""
    if importlib.util.find_spec('triton') is None:
        return (
            'triton is not installed; pip install triton, or pytorch-triton-rocm on ROCm, of the version of this torch'
        )
    return None


def refusal(u: Tensor) -> str | None:
    """Why they cannot run on such inputs, or None."""
    if u.device.type in DEVICES:
        return unusable()
    if u.device.type != 'cpu':
        return f'it has kernels for {" and ".join(DEVICES)} alone, got tensors on {u.device.type}'
    if os.environ.get(INTERPRET) and _interpreted():
        return None
    return (
        f'it has kernels for {" and ".join(DEVICES)} alone, got tensors on cpu; set {INTERPRET}=1 before Python '
        'starts to run them there for a test'
    )


@cache
def unusable() -> str | None:
    """Why Triton fails on this machine's GPUs, or None: it is tried, since it needs a driver and a C compiler."""
    try:
        import triton

        if tuple(map(int, triton.__version__.split('.')[:2])) < OLDEST:
            needed = '.'.join(map(str, OLDEST))
            return f'it needs triton {needed}, and this is {triton.__version__}; a newer torch brings a newer one'
        if not _interpreted():
            triton.runtime.driver.active.get_current_target()
    except Exception as error:  # whatever Triton, the driver or the compiler that Triton calls may raise
        first = str(error).strip().partition('\n')[0].rstrip('.')
        return f'triton does not work here ({type(error).__name__}: {first})'
    return None


@cache
def _interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, as it decided when it was imported."""
    import triton

    from mmsparx.ops.selective_scan import triton_kernels

    return not isinstance(triton_kernels.scan_forward, triton.runtime.JITFunction)


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
    """As `reference.forward`."""
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
    """As `reference.backward`."""
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

    The forward has one warp to a program: no barriers, and many programs even for one picture. The backward adds
    up dB and dC over more rows: what it writes of them, per program, is then 1 / ROWS of what it writes of du.
    """
    if direction == 'forward':
        rows, positions, warps = (8, 64, 1) if length <= 64 else (4, 128, 1)
    else:  # with positions one by one, 16 rows need more than the 255 registers of a thread
        rows, positions, warps = (8 if align == 1 else 16), 64, 4
    few = 1 << (channels - 1).bit_length()
    return {'ROWS': min(rows, few), 'POSITIONS': positions, 'num_warps': warps if few >= rows else 1}


def alignment(length: int, tensors: tuple[Tensor, ...]) -> int:
    """The largest power of two, of 16 bytes at most, that divides the length and all rows' addresses, in elements."""
    align = 16 // tensors[0].element_size()
    strides = [stride for x in tensors for stride in x.stride()[:-1]]
    # In units of 1, a length beyond 32 bits makes positions 64 bits wide in the kernels.
    if length >= 2**31 or any(x.data_ptr() % 16 for x in tensors):
        return 1
    while any(size % align for size in (length, *strides)):
        align //= 2
    return align


class _Launch:
    """The grid and the sizes of a launch.

    Args:
        direction: 'forward' or 'backward'.
        read: the tensors with positions, in the order of the kernel's strides.
        groups, dim: as in `selective_scan`.
        written: one of the tensors with positions that the kernel writes.
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
        constants = {'N': n, 'PADDED_N': 1 << (n - 1).bit_length(), 'SOFTPLUS': bool(softplus)}
        with torch.cuda.device(self.device) if self.device.type == 'cuda' else nullcontext():
            kernel[self.grid](*tensors, *self.sizes, **constants, CHUNK=CHUNK, ALIGN=self.align, **self.block)
