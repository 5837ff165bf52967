"""Fixtures of the operator's tests."""

from contextlib import nullcontext

import pytest

from mmsparx.ops import available_backends
from mmsparx.ops.selective_scan import native


def implementations() -> list[str]:
    """What can run here: the backends, and for the compiled one each of its instruction sets."""
    names = [name for name, missing in available_backends().items() if missing is None and name != 'native']
    return [*(f'native-{name}' for name in native.instruction_sets()), *names]


@pytest.fixture(params=implementations())
def backend(request):
    """The name for `backend=`, with one of the instruction sets in use where it is the compiled one."""
    name, _, instruction_set = request.param.partition('-')
    with native.use_instruction_set(instruction_set) if instruction_set else nullcontext():
        yield name
