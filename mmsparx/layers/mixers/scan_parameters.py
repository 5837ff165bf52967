"""Parts shared by the mixers with a selective scan: initial values of its parameters, and a layer that keeps them."""

import math

import torch
from torch import Tensor, nn


class ScanLinear(nn.Module):
    """Weight and bias of a linear layer that belongs to a scan.

    No `torch.nn.Linear`, so that `init_weights` leaves what `reset_scan_parameters` has set. The mixer applies the
    weight along channels itself, and hands the bias to the scan.

    Args:
        dim: Number of input channels.
        out_dim: Number of output channels.
        bias: Whether there is a bias.
    """

    def __init__(self, dim: int, out_dim: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_dim, dim))
        self.register_parameter('bias', nn.Parameter(torch.empty(out_dim)) if bias else None)

    def extra_repr(self) -> str:
        out_dim, dim = self.weight.shape
        return f'{dim}, {out_dim}, bias={self.bias is not None}'


@torch.no_grad()
def reset_scan_parameters(
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    step_min: float = 1e-3,
    step_max: float = 0.1,
) -> None:
    """Set the initial values of a scan's own parameters, as Mamba's; any shapes with these last dimensions.

    Args:
        x_proj: Weight of the projection to step, B and C, filled as that of a `torch.nn.Linear` of `inner` inputs.
        dt_proj: Weight of the step, (..., R); uniform in +-R^-0.5.
        dt_bias: Bias of the step, (..., inner): the inverse softplus of a step drawn log-uniformly.
        A_log: Logarithm of the decays, (..., n): log(1..n).
        D: Skip connection: ones.
        step_min: Shortest step.
        step_max: Longest step.
    """
    inner, step_rank, state_size = dt_bias.shape[-1], dt_proj.shape[-1], A_log.shape[-1]
    nn.init.uniform_(x_proj, -(inner**-0.5), inner**-0.5)
    nn.init.uniform_(dt_proj, -(step_rank**-0.5), step_rank**-0.5)
    step = torch.empty_like(dt_bias).uniform_(math.log(step_min), math.log(step_max)).exp_()
    dt_bias.copy_(step + torch.log(-torch.expm1(-step)))
    A_log.copy_(torch.arange(1, state_size + 1).log().expand_as(A_log))
    nn.init.ones_(D)


def default_step_rank(dim: int) -> int:
    """R of a map of `dim` channels: ceil(dim / 16)."""
    return math.ceil(dim / 16)
