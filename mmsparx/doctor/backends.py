"""The abilities of torch and the selective scan here, and a check of the scan's numbers. Imports torch."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from mmsparx.ops import cross_selective_scan, native, selective_scan
from mmsparx.ops.selective_scan.backends import AUTO, BACKENDS, choose

# Largest ||a - b|| / ||b|| of a float32 result against float64; rounding alone makes it some 1e-7.
TOLERANCE = 1e-5


def describe() -> dict:
    """torch's version, CUDA and GPUs, a row per backend, device and CPU instruction set, and onnxruntime's library."""
    usable = torch.cuda.is_available()  # the driver may count GPUs that torch cannot use
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count() if usable else 0)]
    return {
        'version': torch.__version__,
        'cuda': torch.version.cuda,
        'gpus': [
            dict(name=x.name, capability=f'{x.major}.{x.minor}', memory_gib=round(x.total_memory / 2**30, 1))
            for x in gpus
        ],
        'ort_library': _ort_library(),
        'backends': [row for device in (['cpu', 'cuda'] if usable else ['cpu']) for row in _rows(device)],
    }


def _ort_library() -> dict:
    """The library of the scans for onnxruntime, as a row of the report."""
    missing, _, fix = (native.without_ort() or '').partition(native.REMEDY)
    return {'status': 'unavailable' if missing else 'ok', 'found': missing, 'fix': fix}


def _rows(device: str) -> Iterator[dict]:
    u = torch.empty(1, 1, 1, device=device)  # empty: a GPU that torch has no kernels for should fail in `check`
    try:
        chosen = choose(AUTO, u).name
    except (ValueError, RuntimeError):  # an environment variable asks for what there is not: see `clashes`
        chosen = None
    for backend in BACKENDS:
        missing, fix = backend.missing() or backend.refusal(u), ''
        if backend.name == 'native' and missing:
            missing, _, fix = missing.partition(native.REMEDY)
        row = {'name': backend.name, 'device': device, 'instruction_set': None, 'in_use': backend.name == chosen}
        row |= {'missing': missing, 'fix': fix, 'lost': bool(backend.missing() and native.build_info().get('built'))}
        if missing or (backend.name, device) != ('native', 'cpu'):
            yield row
            continue
        for name in native.instruction_sets():
            yield row | {'instruction_set': name, 'in_use': row['in_use'] and name == native.instruction_set()}


def check(backend: str, device: str, instruction_set: str = '') -> str:
    """Compare float32 outputs and all gradients of seeded scans with `reference` in float64.

    Returns:
        The largest relative error, and of what.

    Raises:
        ArithmeticError: it is above the tolerance.
    """
    errors = {}
    with native.use_instruction_set(instruction_set) if instruction_set else nullcontext():
        for scan, tensors in _problems():
            truth = _run(scan, {name: x.double() for name, x in tensors.items()}, 'reference')
            found = _run(scan, {name: x.to(device) for name, x in tensors.items()}, backend)
            for name, exact in truth.items():
                error = (found[name].double().cpu() - exact).norm() / exact.norm()
                errors[f'{name} of {scan.__name__}, N = {tensors["A"].shape[1]}'] = error.item()
    worst = max(errors, key=lambda name: math.inf if math.isnan(errors[name]) else errors[name])
    message = f'relative error {errors[worst]:.1e}, tolerance {TOLERANCE:.0e} ({worst})'
    if not errors[worst] <= TOLERANCE:
        raise ArithmeticError(message)
    return message


def _problems() -> Iterator[tuple[Callable, dict[str, Tensor]]]:
    """Scans and their inputs: a length of 333, which ends no block of any backend; D, a bias, groups."""
    generator = torch.Generator().manual_seed(0)
    for states in (1, 16):
        for scan, scanned, dim, groups in (
            (selective_scan, dict(u=(2, 6, 333), delta=(2, 6, 333)), 6, 2),
            (cross_selective_scan, dict(x=(2, 6, 9, 37), step=(2, 4, 2, 333), weight=(24, 2)), 24, 4),
        ):
            along = (2, groups, states, 333)
            shapes = scanned | dict(A=(dim, states), B=along, C=along, D=(dim,), delta_bias=(dim,))
            tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
            yield scan, tensors | {'A': -tensors['A'].exp()}


def _run(scan: Callable, tensors: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
    """The output, and the gradients for a gradient of cos(0), cos(1), ..."""
    tensors = {name: x.detach().requires_grad_() for name, x in tensors.items()}
    out = scan(**tensors, delta_softplus=True, backend=backend)
    weights = torch.arange(out.numel(), dtype=torch.float64).cos().view(out.shape).to(out)
    gradients = torch.autograd.grad(out, list(tensors.values()), weights)
    return {'output': out.detach(), **{f'gradient of {x}': dx for x, dx in zip(tensors, gradients, strict=True)}}
