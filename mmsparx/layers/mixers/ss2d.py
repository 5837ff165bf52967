"""SS2D, the two-dimensional selective scan of VMamba as SparX uses it."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from mmsparx.layers.basic import DepthwiseConv2d
from mmsparx.layers.checks import check_sizes
from mmsparx.layers.mixers.scan_parameters import default_step_rank, reset_scan_parameters
from mmsparx.layers.norm import build_norm
from mmsparx.layers.pointwise import pointwise_conv, pointwise_conv2d
from mmsparx.layers.precision import wide_range
from mmsparx.layers.recompute import recomputable
from mmsparx.ops import cross_scan, cross_selective_scan, state_dtype
from mmsparx.registry import TOKEN_MIXERS

DIRECTIONS = 4


@TOKEN_MIXERS.register_module()
class SS2D(nn.Module):
    """Four selective scans over a feature map (SparX, Fig. 3; VMamba, Sec. 4.2).

        h   = in_proj(x)                     C -> D; in a ganglion layer, the aggregator
        h   = silu(depthwise conv(h))
        h   = norm(sum over directions of the scan of h)
        out = out_proj(h)                    D -> C

    The step and the matrices B and C of each direction come from h by a linear layer per position,
    which commutes with the reordering: it is applied in image order, and only its small output is
    reordered.

    Deviations of the published checkpoints from the paper: a 5x5 instead of a 3x3 convolution.

    VMamba's own has `kernel_size=3, conv_bias=False, proj_bias=False, norm='LN2d'`, and `expand=1` in some sizes.

    Args:
        dim: Number of channels of the map, C.
        aggregator: Maker of the aggregator (C -> D) of a ganglion layer, see `mmsparx.layers.mixers`.
        index: Index of the layer in its stage, which makes no difference here.
        expand: Ratio D / C.
        state_size: Number of states per channel, n.
        step_rank: Number of channels that the step is projected from, R; ceil(C / 16) by default.
        kernel_size: Side of the depthwise convolution, odd.
        conv_bias: Whether the depthwise convolution has a bias.
        proj_bias: Whether the input and output projections have a bias.
        norm: Norm of the scan's output, see `mmsparx.layers.norm.build_norm`.
        backend: Backend of the scan, see `mmsparx.ops.selective_scan`.

    Raises:
        ValueError: `kernel_size` is even, a size is below 1, or the norm is unknown.
    """

    def __init__(
        self,
        dim: int,
        aggregator: Callable[[int, int], nn.Module] | None = None,
        *,
        index: int = 0,
        expand: int = 2,
        state_size: int = 1,
        step_rank: int | None = None,
        kernel_size: int = 5,
        conv_bias: bool = True,
        proj_bias: bool = True,
        norm: Mapping | str = 'GN',
        backend: str = 'auto',
    ):
        super().__init__()
        step_rank = default_step_rank(dim) if step_rank is None else step_rank
        check_sizes('SS2D', expand=expand, state_size=state_size, step_rank=step_rank, kernel_size=kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f'SS2D: expected an odd kernel_size, got {kernel_size}')
        inner = dim * expand
        self.state_size = state_size
        self.step_rank = step_rank
        self.backend = backend
        self.in_proj = pointwise_conv(dim, inner, bias=proj_bias) if aggregator is None else aggregator(dim, inner)
        self.conv = DepthwiseConv2d(inner, kernel_size, bias=conv_bias, activation='silu')
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS * (step_rank + 2 * state_size), inner, 1))
        self.dt_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, inner, step_rank))
        self.dt_proj_bias = nn.Parameter(torch.empty(DIRECTIONS, inner))
        self.A_log = nn.Parameter(torch.empty(DIRECTIONS * inner, state_size))
        self.D = nn.Parameter(torch.empty(DIRECTIONS * inner))
        self.out_norm = build_norm(inner, norm)
        self.out_proj = pointwise_conv(inner, dim, bias=proj_bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        reset_scan_parameters(self.x_proj_weight, self.dt_proj_weight, self.dt_proj_bias, self.A_log, self.D)

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        """(B, C, H, W), and a ganglion layer's sources of the same shape -> (B, C, H, W)."""
        h = recomputable(self.conv, self.in_proj(x, *sources))
        y = recomputable(self.out_norm, self.scan(h))
        return self.out_proj(recomputable(partial(Tensor.to, dtype=h.dtype), y))

    def scan(self, x: Tensor) -> Tensor:
        """The scan in four directions, summed: (B, D, H, W) -> (B, D, H, W), x's type; float32 for float16."""
        parts = pointwise_conv2d(x, self.x_proj_weight.unsqueeze(-1))  # (B, 4 * (R + 2n), H, W)
        parts = cross_scan(parts.unflatten(1, (DIRECTIONS, -1)))  # (B, 4, R + 2n, L)
        step, B, C = parts.split([self.step_rank, self.state_size, self.state_size], dim=2)
        # The step, B and C grow with x, and the scan with its fourth power: an x of a hundred is enough for it
        # to pass float16's 65504, before the norm that follows brings it back.
        x = recomputable(wide_range, x)
        # Under autocast the projections are in 16 bits whatever x is; the scan wants one type. Its
        # own parameters stay in float32 (float64 in a float64 model).
        exact = state_dtype(x)
        return cross_selective_scan(
            x,
            step.to(x.dtype),
            self.dt_proj_weight.flatten(0, 1).to(x.dtype),
            -torch.exp(self.A_log.to(exact)),
            B.to(x.dtype),
            C.to(x.dtype),
            D=self.D.to(exact),
            delta_bias=self.dt_proj_bias.flatten().to(exact),
            delta_softplus=True,
            backend=self.backend,
        )
