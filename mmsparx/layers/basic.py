"""Small parts: stem and downsampling, feed-forward, shortcut scale, drop path, initial values."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmsparx.layers.norm import batch_norm


def stem(in_channels: int, dim: int, depth: int, norm_cfg: Mapping) -> nn.Sequential:
    """Picture to first stage at a quarter of the side (an odd side rounds up).

    A 3x3 convolution of stride 2 to dim / 2 channels, `depth` - 2 more of stride 1, and one of
    stride 2 to dim; each followed by BN, and by GELU but for the last.

    Args:
        in_channels: channels of the picture.
        dim: channels of the first stage.
        depth: number of convolutions, at least 2.
        norm_cfg: see `batch_norm`.
    """
    widths = [in_channels] + [dim // 2] * (depth - 1) + [dim]
    parts: list[nn.Module] = []
    for i in range(depth):
        stride = 2 if i in (0, depth - 1) else 1
        parts += [
            nn.Conv2d(widths[i], widths[i + 1], 3, stride, 1, bias=False),
            batch_norm(widths[i + 1], norm_cfg),
            nn.GELU(),
        ]
    return nn.Sequential(*parts[:-1])


def downsample(dim: int, out_dim: int, norm_cfg: Mapping) -> nn.Sequential:
    """Halve the side (an odd one rounds up): 3x3 convolution of stride 2, BN."""
    return nn.Sequential(nn.Conv2d(dim, out_dim, 3, 2, 1, bias=False), batch_norm(out_dim, norm_cfg))


class ConvFFN(nn.Module):
    """Feed-forward with a residual depthwise 3x3 convolution on the hidden map.

    The paper draws a plain FFN; the published checkpoints have the convolution.
    """

    def __init__(self, dim: int, ratio: int = 4):
        super().__init__()
        hidden = dim * ratio
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = self.act(x + self.dwconv(x))
        return self.fc2(x)


class ChannelScale(nn.Conv2d):
    """A weight and a bias per channel, for a shortcut; starts as the identity.

    A depthwise 1x1 convolution, as in the published checkpoints (the paper does not mention it). On a
    CPU torch convolves channel by channel, up to 130 times slower than the product that it is.
    """

    def __init__(self, dim: int):
        super().__init__(dim, dim, 1, groups=dim)

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != 'cpu':
            return super().forward(x)
        # In x's type, which autocast leaves as it is; within the networks that is the 16 bits of the layer before.
        weight, bias = (p.view(-1, 1, 1).to(x.dtype) for p in (self.weight, self.bias))
        return torch.addcmul(bias, x, weight)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): in training, drop a sample's branch with probability
    `rate` and scale the kept ones by 1 / (1 - rate)."""

    def __init__(self, rate: float = 0.0):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f'drop-path rate: expected 0 <= rate < 1, got {rate}')
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = torch.empty((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * mask.div_(keep)

    def extra_repr(self) -> str:
        return f'rate={self.rate:g}'


def init_weights(module: nn.Module) -> None:
    """The published initial values of one convolution or linear layer, for `Module.apply`.

    Weights from a normal of std 0.02 truncated at +-2, biases 0. Norms keep torch's 1 and 0, and
    the scan's own parameters are set where they are made.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)) and not isinstance(module, ChannelScale):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-2.0, b=2.0)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
