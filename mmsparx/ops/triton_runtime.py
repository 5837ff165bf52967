"""Triton, of all operators: where its kernels can run, and their launch.

Triton comes with torch and compiles a kernel when it first runs. It is imported then, not before. TRITON_INTERPRET=1
runs the kernels on a CPU, slowly: for tests.
"""

import importlib.metadata
import importlib.util
import math
import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

DEVICES = ('cuda',)  # ROCm's, too
INTERPRET = 'TRITON_INTERPRET'
OLDEST = (3, 2)  # torch 2.6 has it; the compilers of 3.0 and 3.1 crash, with Python, on the scan's backward


@cache
def missing() -> str | None:
    """Reason why there is no Triton, or None; it is not imported."""
    if importlib.util.find_spec('triton') is None:
        return (
            'triton is not installed; pip install triton, or pytorch-triton-rocm on ROCm, of the version of this torch'
        )
    return None


def refusal(x: Tensor) -> str | None:
    """Reason why kernels cannot run on such inputs, or None."""
    if x.device.type in DEVICES:
        return unusable()
    if x.device.type != 'cpu':
        return f'it has kernels for {" and ".join(DEVICES)} alone, got tensors on {x.device.type}'
    if os.environ.get(INTERPRET) and _interpreted():
        return _uninterpretable()
    return (
        f'it has kernels for {" and ".join(DEVICES)} alone, got tensors on cpu; set {INTERPRET}=1 before Python '
        'starts to run them there for a test'
    )


@cache
def unusable() -> str | None:
    """Reason why Triton fails on these GPUs, or None: it is tried, since it needs a driver and a C compiler."""
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
def _uninterpretable() -> str | None:
    """Reason why Triton's interpreter fails here, or None: it is tried, since numpy 2.4 breaks that of Triton 3.6."""
    from mmsparx.ops import triton_probe

    try:
        triton_probe.add_up[(1,)](torch.ones(1), torch.empty(1), 1, BLOCK=2)
    except Exception as error:  # whatever the interpreter, or numpy below it, may raise
        import triton

        numpy = importlib.metadata.version('numpy')
        first = str(error).strip().partition('\n')[0].rstrip('.')
        return (
            f"triton {triton.__version__}'s interpreter does not work beside numpy {numpy} "
            f"({type(error).__name__}: {first}); try one below 2.4 (pip install 'numpy<2.4'), or unset {INTERPRET}"
        )
    return None


@cache
def _interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, as it decided when it was imported."""
    import triton

    from mmsparx.ops import triton_probe

    return not isinstance(triton_probe.add_up, triton.runtime.JITFunction)


def current(device: torch.device) -> AbstractContextManager:
    """Makes a GPU the current one, on which Triton launches."""
    return torch.cuda.device(device) if device.type == 'cuda' else nullcontext()


def power_of_two(size: int) -> int:
    """The smallest that is no less."""
    return 1 << (size - 1).bit_length()


def alignment(x: Tensor, size: int, *others: Tensor) -> int:
    """The largest power of two, of 16 bytes at most, that divides `size` and the addresses of contiguous tensors.

    Args:
        x: Tensor whose elements are counted.
        size: Number of elements between what the kernel addresses, as of a row.
        *others: More tensors of its type.
    """
    align = 16 // x.element_size()
    if any(tensor.data_ptr() % 16 for tensor in (x, *others)):
        return 1
    return math.gcd(align, size)


# Arguments `missing`, `refusal` and `devices` of a `Backend` by Triton.
CONDITIONS = (missing, refusal, DEVICES)
