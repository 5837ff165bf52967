"""The list of backends of an operator with compiled kernels for CPUs and Triton's for GPUs."""

from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch

from mmsparx.ops import native, triton_runtime
from mmsparx.ops.backends import Backend


def best_first(operator: str, triton_backend: ModuleType, reference: ModuleType) -> list[Backend]:
    """Compiled kernels for CPUs, Triton's for GPUs, and the reference, which runs on anything.

    Args:
        operator: Name of the operator; the compiled library has it as NAME_native, and its backward as NAME_bwd_native.
        triton_backend, reference: Modules with `forward` and `backward`.
    """

    def kernel(name: str) -> Callable:  # looked up when it runs, as the library may not be there
        return lambda *arguments: getattr(torch.ops.mmsparx, name)(*arguments)

    devices = ('cpu',)
    forward, backward = kernel(f'{operator}_native'), kernel(f'{operator}_bwd_native')
    return [
        Backend('native', forward, backward, native.missing, partial(native.refusal, devices=devices), devices),
        Backend('triton', triton_backend.forward, triton_backend.backward, *triton_runtime.CONDITIONS),
        Backend('reference', reference.forward, reference.backward),
    ]
