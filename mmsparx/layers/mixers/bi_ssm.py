"""Bi-SSM, the bidirectional block of Vision Mamba."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmsparx.layers.mixers.scan_parameters import ScanLinear, reset_scan_parameters
from mmsparx.layers.mixers.ssm import SSM, causal_conv, gated_scan
from mmsparx.registry import TOKEN_MIXERS


@TOKEN_MIXERS.register_module()
class BiSSM(SSM):
    """Vim's block (Zhu et al., 2024) on a map read row by row and in reverse (SparX, A.3).

    The projections are those of `SSM`. The reversed sequence of values and gates has a convolution, which looks at
    what follows a position, and a scan of its own; what it gives is put back into order and added to the forward one.

    Determined by the paper: the block. Fitted to the paper's figures: `expand` and the aggregator's place, as in
    `SSM`. The 25,527,900 parameters of SparX-Mamba-T with it round to 26 M, where the paper prints 25.

    Args:
        dim: Number of channels of the map, C.
        aggregator: Maker of the aggregator (C -> C) of a ganglion layer, see `mmsparx.layers.mixers`.
        average: Whether the sum of the two directions is halved, as in Vim's published weights.
        **options: Options of `SSM`.

    Raises:
        ValueError: See `SSM`.
    """

    def __init__(
        self,
        dim: int,
        aggregator: Callable[[int, int], nn.Module] | None = None,
        *,
        average: bool = True,
        **options,
    ):
        super().__init__(dim, aggregator, **options)
        self.average = average
        inner, state_size = self.A_log.shape
        self.conv1d_b = causal_conv(inner, self.conv1d.kernel_size[0])
        self.x_proj_b = ScanLinear(inner, self.x_proj.weight.shape[0])
        self.dt_proj_b = ScanLinear(self.dt_proj.weight.shape[1], inner, bias=True)
        self.A_b_log = nn.Parameter(torch.empty(inner, state_size))
        self.D_b = nn.Parameter(torch.empty(inner))
        self._reset_backward()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self._reset_backward()

    def _reset_backward(self) -> None:
        reset_scan_parameters(self.x_proj_b.weight, self.dt_proj_b.weight, self.dt_proj_b.bias, self.A_b_log, self.D_b)

    def scan(self, h: Tensor) -> Tensor:
        """Values and gates (B, 2 D, L) -> (B, D, L), gated, of both directions; in h's type, float32 for float16."""
        forward = super().scan(h)
        backward = gated_scan(
            h.flip(-1), self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b, self.backend
        ).flip(-1)
        return (forward + backward) / 2 if self.average else forward + backward
