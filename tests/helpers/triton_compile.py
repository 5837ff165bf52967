"""The Triton kernels compiled for GPUs that need not be there.

`python -m helpers.triton_compile 90`, in tests/, prints the registers and the spills of each.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from helpers.kernels import inputs
from mmsparx.ops.depthwise_conv import triton_backend as conv_backend
from mmsparx.ops.depthwise_conv import triton_kernels as conv_kernels
from mmsparx.ops.map_norm import triton_backend as norm_backend
from mmsparx.ops.map_norm import triton_kernels as norm_kernels
from mmsparx.ops.selective_scan import triton_backend, triton_kernels, triton_reorder

KERNELS = [
    *((norm_kernels, name) for name in ('part_statistics', 'normalise', 'channel_sums', 'gradient')),
    *((conv_kernels, name) for name in ('convolve', 'gradients')),
    *((triton_kernels, name) for name in ('scan_forward', 'scan_backward')),
    *((triton_reorder, name) for name in ('map_to_sequences', 'sum_of_sequences')),
]
PTXAS = Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'ptxas'


@contextmanager
def compiling(capability: int) -> Iterator[list]:
    """Compile launches for a GPU of this capability, such as 90, without running them.

    Yields the list of the compiled variants, as Triton's CompiledKernel, each once.
    """
    compiled = []

    class Kernel:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return partial(self.compile, grid=grid)

        def compile(self, *args, **kwargs):
            found = self.kernel.run(*args, warmup=True, **kwargs)
            if not any(found is x for x in compiled):
                compiled.append(found)

    kernels = [(module, name, getattr(module, name)) for module, name in KERNELS]
    before = driver._active
    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: GPUTarget('cuda', capability, 32),
            get_current_device=lambda: f'none of {capability}',
            get_current_stream=lambda device: 0,
        )
    )
    try:
        for module, name, kernel in kernels:
            setattr(module, name, Kernel(kernel))
        yield compiled
    finally:
        for module, name, kernel in kernels:
            setattr(module, name, kernel)
        driver._active = before


def launch_both(length: int, **options) -> None:
    """A forward and a backward on inputs like those of `helpers.kernels.inputs`."""
    tensors = inputs(length, **options)
    out, states = triton_backend.forward(*tensors, True)
    triton_backend.backward(out, *tensors, states, True)


def reorder_both(*shape: int, dtype: torch.dtype = torch.float32) -> None:
    """A map of shape (b, D, H, W) to its sequences and back."""
    triton_backend.from_sequences(triton_backend.to_sequences(torch.empty(shape, dtype=dtype)), *shape[2:])


def normalise_both(*shape: int, dtype: torch.dtype = torch.float32) -> None:
    """A norm over whole maps of this shape, and its backward."""
    x, parameter = torch.empty(shape, dtype=dtype), torch.empty(shape[1])
    out, mean, rstd = norm_backend.forward(x, parameter, parameter, 1e-5)
    norm_backend.backward(out, x, parameter, parameter, mean, rstd, 1e-5)


def convolve_both(*shape: int, side: int, activation: str, dtype: torch.dtype = torch.float32) -> None:
    """A depthwise convolution of maps of this shape, with bias and residual, and its backward."""
    x, weight, bias = torch.empty(shape, dtype=dtype), torch.empty(shape[1], 1, side, side), torch.empty(shape[1])
    out = conv_backend.forward(x, weight, bias, True, activation)
    conv_backend.backward(out, x, weight, bias, True, activation)


def resources(kernel, capability: int) -> tuple[int, int]:
    """Registers of a thread and bytes spilled, as reported by NVIDIA's assembler."""
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder, 'kernel.ptx')
        ptx.write_text(kernel.asm['ptx'])
        command = [PTXAS, '-v', f'--gpu-name=sm_{capability}{"a" * (capability == 90)}', ptx, '-o', f'{ptx}.cubin']
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return tuple(int(re.search(rf'(\d+) {what}', report)[1]) for what in ('registers', 'bytes spill stores'))


def table(capability: int) -> Iterator[str]:
    yield f'sm_{capability}: kernel, type, N, L, registers, bytes spilled'
    for dtype, states, length in (
        (torch.float32, 1, 3136),
        (torch.bfloat16, 1, 3136),
        (torch.float32, 1, 49),
        (torch.float32, 16, 3136),
        (torch.float64, 1, 3136),
    ):
        with compiling(capability) as compiled:
            launch_both(length, dim=32, states=states, dtype=dtype)
        for kernel in compiled:
            registers, spilled = resources(kernel, capability)
            yield f'{kernel.name:<17}{str(dtype)[6:]:<9}{states:<4}{length:<6}{registers:>4}{spilled:>5}'
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for side in (56, 14, 7):
            with compiling(capability) as compiled:
                reorder_both(1, 32, side, side, dtype=dtype)
            for kernel in compiled:
                registers, spilled = resources(kernel, capability)
                yield f'{kernel.name:<17}{str(dtype)[6:]:<9}{"":<4}{side * side:<6}{registers:>4}{spilled:>5}'


if __name__ == '__main__':
    for line in table(int(sys.argv[1])):
        sys.stdout.write(f'{line}\n')
