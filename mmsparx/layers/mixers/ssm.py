"""SSM, the block of Mamba on a map that is read row by row."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsparx.layers.checks import check_sizes
from mmsparx.layers.mixers.scan_parameters import ScanLinear, default_step_rank, reset_scan_parameters
from mmsparx.layers.precision import full_precision, wide_range
from mmsparx.ops import selective_scan, state_dtype
from mmsparx.registry import TOKEN_MIXERS


@TOKEN_MIXERS.register_module()
class SSM(nn.Module):
    """Mamba's block (Gu and Dao, 2024) on a map read row by row, so each position sees those before it (SparX, A.3).

        u, z = in_proj(x)                    C -> D each
        u    = silu(causal depthwise conv1d(u))
        y    = selective_scan(u) * silu(z)
        out  = out_proj(y)                   D -> C

    Determined by the paper: the block and its defaults. Fitted to the paper's figures: D = C (Mamba has 2C, which
    gives 28.6 M parameters and 5.85 G multiply-adds, where the paper prints 25 and 4.8), and the aggregator in front of
    the whole block.

    Args:
        dim: Number of channels of the map, C.
        aggregator: Maker of the aggregator (C -> C) of a ganglion layer, see `mmsparx.layers.mixers`.
        index: Index of the layer in its stage, which makes no difference here.
        expand: Ratio D / C.
        state_size: Number of states per channel, n.
        step_rank: Number of channels that the step is projected from, R; ceil(C / 16) by default.
        kernel_size: Length of the convolution.
        backend: Backend of the scan, see `mmsparx.ops.selective_scan`.

    Raises:
        ValueError: A size is below 1.
    """

    def __init__(
        self,
        dim: int,
        aggregator: Callable[[int, int], nn.Module] | None = None,
        *,
        index: int = 0,
        expand: int = 1,
        state_size: int = 16,
        step_rank: int | None = None,
        kernel_size: int = 4,
        backend: str = 'auto',
    ):
        super().__init__()
        step_rank = default_step_rank(dim) if step_rank is None else step_rank
        check_sizes(
            type(self).__name__, expand=expand, state_size=state_size, step_rank=step_rank, kernel_size=kernel_size
        )
        inner = dim * expand
        self.backend = backend
        self.aggregator = None if aggregator is None else aggregator(dim, dim)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv1d = causal_conv(inner, kernel_size)
        self.x_proj = ScanLinear(inner, step_rank + 2 * state_size)
        self.dt_proj = ScanLinear(step_rank, inner, bias=True)
        self.A_log = nn.Parameter(torch.empty(inner, state_size))
        self.D = nn.Parameter(torch.empty(inner))
        self.out_proj = WideLinear(inner, dim, bias=False)
        SSM.reset_parameters(self)  # a subclass's parameters do not exist yet

    def reset_parameters(self) -> None:
        reset_scan_parameters(self.x_proj.weight, self.dt_proj.weight, self.dt_proj.bias, self.A_log, self.D)

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        """(B, C, H, W), and a ganglion layer's sources of the same shape -> (B, C, H, W)."""
        if self.aggregator is not None:
            x = self.aggregator(x, *sources)
        h = self.in_proj(x.flatten(2).transpose(1, 2)).transpose(1, 2)  # (B, 2 D, L)
        y = self.out_proj(self.scan(h).transpose(1, 2)).to(h.dtype)  # (B, L, C)
        return y.transpose(1, 2).unflatten(2, x.shape[2:]).contiguous()

    def scan(self, h: Tensor) -> Tensor:
        """Values and gates (B, 2 D, L) -> (B, D, L), gated; in h's type, float32 for float16."""
        return gated_scan(h, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D, self.backend)


class WideLinear(nn.Linear):
    """Linear layer in its input's type, also under autocast: what a scan gives in float32 may not fit float16."""

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x.device):
            return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def causal_conv(dim: int, kernel_size: int) -> nn.Conv1d:
    """A depthwise convolution along a sequence; `gated_scan` cuts what it gives past the end. Starts as torch's."""
    return nn.Conv1d(dim, dim, kernel_size, padding=kernel_size - 1, groups=dim)


def gated_scan(
    h: Tensor, conv: nn.Conv1d, x_proj: ScanLinear, dt_proj: ScanLinear, A_log: Tensor, D: Tensor, backend: str
) -> Tensor:
    """Mamba's convolution, scan and gate along a sequence.

    Args:
        h: Values and gates, (B, 2 D, L).
        conv: Convolution of `causal_conv`.
        x_proj: Projection D -> R + 2 n, to step, B and C.
        dt_proj: Projection R -> D of the step.
        A_log: Logarithm of the decays, (D, n).
        D: Skip connection, (D,).
        backend: Backend of the scan.

    Returns:
        (B, D, L) in h's type, float32 for float16.
    """
    u, z = h.chunk(2, dim=1)
    u = F.silu(conv(u)[..., : h.shape[-1]])
    parts = torch.matmul(x_proj.weight, u)  # (B, R + 2 n, L)
    state_size = A_log.shape[1]
    step, B, C = parts.split([parts.shape[1] - 2 * state_size, state_size, state_size], dim=1)
    # As in SS2D, the scan grows with the fourth power of u, and float16 ends at 65504.
    u = wide_range(u)
    exact = state_dtype(u)
    with full_precision(u.device):
        delta = torch.matmul(dt_proj.weight.to(u.dtype), step.to(u.dtype))  # (B, D, L)
    return selective_scan(
        u,
        delta,
        -torch.exp(A_log.to(exact)),
        B.to(u.dtype),
        C.to(u.dtype),
        D=D.to(exact),
        z=z.to(u.dtype),
        delta_bias=dt_proj.bias.to(exact),
        delta_softplus=True,
        backend=backend,
    )
