"""`selective_scan` and `cross_selective_scan`: what they compute, and the checks on what they are given."""

from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsparx.ops.selective_scan import library  # noqa: F401  (registers the operator)
from mmsparx.ops.selective_scan.backends import AUTO, check_name
from mmsparx.ops.selective_scan.reference import state_dtype

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: Literal[False] = False,
    backend: str = AUTO,
) -> Tensor: ...
@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    return_last_state: Literal[True],
    backend: str = AUTO,
) -> tuple[Tensor, Tensor]: ...
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    backend: str = AUTO,
) -> Tensor | tuple[Tensor, Tensor]:
    """The selective scan of Mamba (Gu and Dao, 2024, Alg. 2), over any number of states.

    For every channel d, with its group g, and every position t:

        step_t = softplus(delta_t + delta_bias)      (softplus only if `delta_softplus`)
        h_t    = exp(step_t A) h_{t-1} + step_t B_t u_t,        h_0 = 0
        out_t  = C_t . h_t + D u_t                   (times silu(z_t) if z is given)

    The state and all arithmetic are float32, or float64 for float64 inputs; a 16-bit input is
    converted when it is read and the output when it is written. NaN and infinity propagate: what is not
    finite stays so, though a compiled backend, which multiplies decays first, may make NaN of infinity.
    Arguments and their order are those of mamba's `selective_scan_fn`.

    Differentiable in every tensor: gradients by a backend; forward-mode AD and second and higher derivatives by a loop
    over positions in torch, which is slower and keeps all states. `torch.func`'s transforms and `torch.vmap` apply.

    Args:
        u: (batch, dim, L); float64, float32, bfloat16 or float16.
        delta: (batch, dim, L), u's type.
        A: (dim, N), real: float32, or float64 if u is.
        B: (batch, G, N, L) or (batch, N, L), u's type; channel d reads group d // (dim / G).
        C: Same shape and type as B.
        D: (dim,), A's type: the skip connection.
        z: (batch, dim, L), u's type: the gate.
        delta_bias: (dim,), A's type.
        delta_softplus: True if the step goes through softplus.
        return_last_state: True to return h_L as well.
        backend: 'auto', or the name of the backend to run (see `available_backends`); 'auto' is the best
            that can run, unless the environment variable MMSPARX_SCAN_BACKEND names one.

    Returns:
        out (batch, dim, L) in u's type; with `return_last_state` also the last state
        (batch, dim, N) in A's type, which carries no gradient (as in mamba), but the tangent of forward-mode AD.

    Raises:
        TypeError, ValueError: an argument of another type or shape; the message has both.
        RuntimeError: the backend asked for cannot run, and why.
    """
    check_name(backend)
    B, C = _with_groups('B', B), _with_groups('C', C)
    if u.dim() != 3 or u.shape[2] < 1:
        raise ValueError(f'selective_scan: expected u of shape (batch, dim, L) with L >= 1, got {tuple(u.shape)}')
    batch, dim, length = u.shape
    states, groups = _check_states(A, dim), B.shape[1]
    if groups < 1 or dim % groups:
        raise ValueError(f'selective_scan: expected groups (B.shape[1]) that divide {dim} channels, got {groups}')
    _check(
        'u',
        u,
        {
            'delta': (delta, (batch, dim, length), u.dtype),
            'A': (A, (dim, states), state_dtype(u)),
            'B': (B, (batch, groups, states, length), u.dtype),
            'C': (C, (batch, groups, states, length), u.dtype),
            'D': (D, (dim,), state_dtype(u)),
            'z': (z, (batch, dim, length), u.dtype),
            'delta_bias': (delta_bias, (dim,), state_dtype(u)),
        },
    )
    dtype = u.dtype
    if z is not None:
        # The gate belongs to the arithmetic: the scan's output must not be rounded before it.
        u, delta, B, C = (x.to(A.dtype) for x in (u, delta, B, C))
    out, states = torch.ops.mmsparx.selective_scan_fwd(u, delta, A, B, C, D, delta_bias, delta_softplus, backend)
    if z is not None:
        out = (out * F.silu(z.to(A.dtype))).to(dtype)
    if not return_last_state:
        return out
    return out, states[:, :, -1].clone()  # a view would keep the states of all chunks


def cross_selective_scan(
    x: Tensor,
    step: Tensor,
    weight: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    backend: str = AUTO,
) -> Tensor:
    """The selective scans of a map along the four directions of SS2D, summed (VMamba, Sec. 4.2).

        cross_merge(selective_scan(cross_scan(x), weight @ step, A, B, C, ...))

    without its intermediate results, each four times as large as x, in memory or kept for the backward,
    where the backend has kernels for it (on GPUs these read delta from memory); by these very steps where it has not.

    Args:
        x: (batch, D, H, W), of the types of `selective_scan`'s u.
        step: (batch, 4, R, L), x's type, L = H * W; like all that follows, in the order of its direction
            (see `cross_scan`), and the directions one after the other.
        weight: (4 D, R), x's type: delta from the step.
        A: (4 D, N), real: float32, or float64 if x is.
        B: (batch, 4, N, L), x's type.
        C: Same shape and type as B.
        D: (4 D,), A's type.
        delta_bias: (4 D,), A's type.
        delta_softplus: Same as in `selective_scan`.
        backend: Same as in `selective_scan`.

    Returns:
        (batch, D, H, W) in x's type. 16-bit results are rounded once at the end by `native` on CPUs; on GPUs delta is,
        too, and of maps that do not fit into shared memory, and in every backward, the sums on their way. Other
        backends round each direction's output, too.

    Raises:
        TypeError, ValueError, RuntimeError: as `selective_scan`.
    """
    check_name(backend)
    if x.dim() != 4 or 0 in x.shape[2:]:
        raise ValueError(f'selective_scan: expected x of shape (batch, D, H, W) with H, W >= 1, got {tuple(x.shape)}')
    batch, channels, height, width = x.shape
    dim, length = 4 * channels, height * width
    states = _check_states(A, dim)
    if weight.dim() != 2:
        raise ValueError(f'selective_scan: expected weight of shape (4 D, R), got {tuple(weight.shape)}')
    rank = weight.shape[1]
    _check(
        'x',
        x,
        {
            'step': (step, (batch, 4, rank, length), x.dtype),
            'weight': (weight, (dim, rank), x.dtype),
            'A': (A, (dim, states), state_dtype(x)),
            'B': (B, (batch, 4, states, length), x.dtype),
            'C': (C, (batch, 4, states, length), x.dtype),
            'D': (D, (dim,), state_dtype(x)),
            'delta_bias': (delta_bias, (dim,), state_dtype(x)),
        },
    )
    out, _ = torch.ops.mmsparx.cross_selective_scan_fwd(
        x, step, weight, A, B, C, D, delta_bias, delta_softplus, backend
    )
    return out


def _with_groups(name: str, x: Tensor) -> Tensor:
    if x.dim() not in (3, 4):
        raise ValueError(
            f'selective_scan: expected {name} of shape (batch, G, N, L) or (batch, N, L), got {tuple(x.shape)}'
        )
    return x.unsqueeze(1) if x.dim() == 3 else x


def _check_states(A: Tensor, dim: int) -> int:
    if A.dim() != 2 or A.shape[0] != dim or A.shape[1] < 1:
        raise ValueError(f'selective_scan: expected A of shape ({dim}, N) for {dim} channels, got {tuple(A.shape)}')
    if A.is_complex():
        raise TypeError(f'selective_scan: expected a real A, got {A.dtype}; complex states are not supported')
    return A.shape[1]


def _check(scanned: str, u: Tensor, expected: dict) -> None:
    """`expected`: by name (tensor or None, shape, type); `scanned`: the name of u, what is scanned."""
    if u.dtype not in _DTYPES:
        raise TypeError(f'selective_scan: expected {scanned} in one of {_DTYPES}, got {u.dtype}')
    for name, (x, shape, dtype) in expected.items():
        if x is None:
            continue
        if tuple(x.shape) != shape:
            others = ', '.join(
                f'{k} of {tuple(v.shape)}' for k, (v, _, _) in expected.items() if k in 'AB' and k != name
            )
            raise ValueError(
                f'selective_scan: expected {name} of shape {shape} beside {scanned} of shape {tuple(u.shape)}'
                f'{others and ", "}{others}, got {tuple(x.shape)}'
            )
        if x.dtype != dtype:
            raise TypeError(
                f'selective_scan: expected {name} in {dtype} beside {scanned} in {u.dtype}, got {x.dtype}; '
                f'convert it with .to({dtype})'
            )
        if x.device != u.device:
            raise ValueError(f"selective_scan: expected {name} on {scanned}'s device {u.device}, got {x.device}")
