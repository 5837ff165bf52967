"""Fixtures of the operator's tests."""

import os
from contextlib import ExitStack

import pytest
import torch
from helpers import gpu_kernels

from mmsparx.ops import native, triton_runtime
from mmsparx.ops.selective_scan import backends

if os.environ.get(triton_runtime.INTERPRET):
    from helpers import triton_interpreter

    triton_interpreter.install()


def compiled() -> list:
    """The compiled kernels: those for CPUs by instruction set, those for GPUs in emulation and on a GPU."""
    names = [f'native-{name}' for name in native.instruction_sets()]
    names += [pytest.param(name, marks=pytest.mark.emulated) for name in ('emulated', 'emulated-lanes')]
    return names if gpu_kernels.gpu_missing() else [*names, pytest.param('gpu', marks=pytest.mark.gpu)]


def others() -> list[str]:
    """The other backends that can run on this CPU."""
    u = torch.empty(1, 1, 1)
    return [x.name for x in backends.BACKENDS if x.name != 'native' and (x.missing() or x.refusal(u)) is None]


def pytest_collection_modifyitems(items):
    """Drop tests of the kernels with a lane per row in float64 and with several states, which other kernels run."""
    items[:] = [item for item in items if not left_to_others(item)]


def left_to_others(item) -> bool:
    call = getattr(item, 'callspec', None)
    if call is None or 'emulated-lanes' not in [x for x in call.params.values() if isinstance(x, str)]:
        return False
    in_double = call.params.get('dtype') is torch.float64 or 'gradcheck' in item.name
    return in_double or call.params.get('states', 1) > 1


@pytest.fixture
def use(monkeypatch):
    """Prepares one of `compiled()` or `others()`; returns the name for `backend=`, on CPU tensors."""

    def use(name):
        name, _, variant = name.partition('-')
        if name == 'native' and variant:
            stack.enter_context(native.use_instruction_set(variant))
        if name == 'emulated' and gpu_kernels.emulation_missing():
            pytest.skip(f'the CUDA kernels cannot be emulated: {gpu_kernels.emulation_missing()}')
        if name in ('emulated', 'gpu'):
            emulated = name == 'emulated'
            planted = gpu_kernels.emulated(variant == 'lanes') if emulated else gpu_kernels.on_gpu(backends.BACKENDS[0])
            monkeypatch.setattr(backends, 'BACKENDS', [planted, *backends.BACKENDS])
            return planted.name
        return name

    with ExitStack() as stack:
        yield use


@pytest.fixture(params=[*compiled(), *others()])
def backend(request, use):
    """The name for `backend=` of everything that can run."""
    return use(request.param)


@pytest.fixture(params=compiled())
def kernels(request, use):
    """The name for `backend=` of the compiled kernels."""
    return use(request.param)
