"""Small parts: stems, downsamplings, feed-forwards by name; convolutions, shortcut scale, drop path, initial values."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsparx.layers.norm import build_norm
from mmsparx.layers.pointwise import pointwise_conv
from mmsparx.layers.recompute import RecomputableSequential, pure, recomputable
from mmsparx.ops import depthwise_conv2d


def conv_stem(in_channels: int, dim: int, depth: int, norm_cfg: Mapping) -> RecomputableSequential:
    """Image to first stage at a quarter of the side (an odd side rounds up), as published.

    A 3x3 convolution of stride 2 to dim / 2 channels, `depth` - 2 more of stride 1, and one of stride 2 to dim, all
    without bias; each is followed by a norm, and by GELU but for the last.

    Args:
        in_channels: Number of channels of the image.
        dim: Number of channels of the first stage.
        depth: Number of convolutions, at least 2.
        norm_cfg: Config of the batch norms, see `mmsparx.layers.norm.build_norm`.

    Raises:
        ValueError: `depth` or `dim` is below 2.
    """
    return _conv_stem(in_channels, dim, depth, norm_cfg, bias=False)


def conv_ln_stem(in_channels: int, dim: int, depth: int, norm_cfg: Mapping) -> RecomputableSequential:
    """VMamba's stem: `conv_stem` with biases, and LayerNorms over channels instead of the norms of `norm_cfg`."""
    return _conv_stem(in_channels, dim, depth, 'LN2d', bias=True)


def _conv_stem(
    in_channels: int, dim: int, depth: int, norm_cfg: Mapping | str, *, bias: bool
) -> RecomputableSequential:
    if depth < 2:
        raise ValueError(f'stem: expected a depth of at least 2 convolutions, which halve the side twice, got {depth}')
    if dim < 2:
        raise ValueError(f'stem: expected a first stage of at least 2 channels, of which the stem has half, got {dim}')
    widths = [in_channels] + [dim // 2] * (depth - 1) + [dim]
    parts: list[nn.Module] = []
    for i in range(depth):
        stride = 2 if i in (0, depth - 1) else 1
        parts += [
            nn.Conv2d(widths[i], widths[i + 1], 3, stride, 1, bias=bias),
            build_norm(widths[i + 1], norm_cfg),
            nn.GELU(),
        ]
    return RecomputableSequential(*parts[:-1])


class PatchStem(RecomputableSequential):
    """Swin's stem: one 4x4 convolution of stride 4 with bias, and a LayerNorm over channels.

    An image whose side is no multiple of 4 is padded with zeros at the right and the bottom.

    Args:
        in_channels: Number of channels of the image.
        dim: Number of channels of the first stage.
        depth: Ignored, as there is one convolution; all stems are made alike.
        norm_cfg: Ignored, as there is no batch norm.
    """

    def __init__(self, in_channels: int, dim: int, depth: int, norm_cfg: Mapping):
        super().__init__(nn.Conv2d(in_channels, dim, 4, 4), build_norm(dim, 'LN2d'))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, dim, ceil(H / 4), ceil(W / 4))."""
        return super().forward(pad_to_multiple(x, 4))


STEMS: dict[str, Callable[..., nn.Module]] = {'conv': conv_stem, 'conv_ln': conv_ln_stem, 'patch': PatchStem}


def conv_downsample(dim: int, out_dim: int, norm_cfg: Mapping) -> RecomputableSequential:
    """Halve the side (an odd one rounds up), as published: 3x3 convolution of stride 2 without bias, norm.

    Args:
        dim: Number of channels.
        out_dim: Number of channels of the next stage.
        norm_cfg: Config of the batch norm, see `mmsparx.layers.norm.build_norm`.
    """
    return RecomputableSequential(nn.Conv2d(dim, out_dim, 3, 2, 1, bias=False), build_norm(out_dim, norm_cfg))


def conv_ln_downsample(dim: int, out_dim: int, norm_cfg: Mapping) -> RecomputableSequential:
    """VMamba's downsampling: 3x3 convolution of stride 2 with bias, LayerNorm over channels; no batch norm."""
    return RecomputableSequential(nn.Conv2d(dim, out_dim, 3, 2, 1), build_norm(out_dim, 'LN2d'))


class PatchMerging(nn.Module):
    """Swin's downsampling: 2x2 neighbours as 4C channels, LayerNorm over them, 1x1 convolution without bias.

    A map with an odd side is padded with zeros by one at its end. The four neighbours are stacked column by column,
    as in Swin's code and its weights: (0, 0), (1, 0), (0, 1), (1, 1), as (row, column).

    Args:
        dim: Number of channels.
        out_dim: Number of channels of the next stage.
        norm_cfg: Ignored, as there is no batch norm; all downsamplings are made alike.
    """

    def __init__(self, dim: int, out_dim: int, norm_cfg: Mapping):
        super().__init__()
        self.norm = build_norm(4 * dim, 'LN2d')
        self.reduction = pointwise_conv(4 * dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, out_dim, ceil(H / 2), ceil(W / 2))."""
        x = pad_to_multiple(x, 2)
        x = torch.cat([x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)], 1)
        return self.reduction(recomputable(self.norm, x))


DOWNSAMPLES: dict[str, Callable[..., nn.Module]] = {
    'conv': conv_downsample,
    'conv_ln': conv_ln_downsample,
    'patch_merging': PatchMerging,
}


@pure
class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution that keeps the map's size, and what follows it, by `mmsparx.ops.depthwise_conv2d`.

    Its parameters are those of the `nn.Conv2d` that the published networks have in its place.

    Args:
        dim: Number of channels.
        kernel_size: Side of the window, odd.
        bias: Whether there is a bias per channel.
        residual: Whether the input is added to the convolution.
        activation: Activation after it: 'none', 'gelu' or 'silu'.
    """

    def __init__(
        self, dim: int, kernel_size: int, *, bias: bool = True, residual: bool = False, activation: str = 'none'
    ):
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=bias)
        self.residual = residual
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        return depthwise_conv2d(x, self.weight, self.bias, residual=self.residual, activation=self.activation)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, residual={self.residual}, activation={self.activation}'


class ConvFFN(nn.Module):
    """Feed-forward with a residual depthwise 3x3 convolution on the hidden map.

    The paper draws a plain FFN; the published checkpoints have the convolution.

    Args:
        dim: Number of channels of the input.
        hidden: Number of hidden channels; 4 * dim by default.
        out_dim: Number of channels of the output; dim by default.
    """

    def __init__(self, dim: int, hidden: int | None = None, out_dim: int | None = None):
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        self.fc1 = pointwise_conv(dim, hidden)
        self.dwconv = DepthwiseConv2d(hidden, 3, residual=True, activation='gelu')
        self.fc2 = pointwise_conv(hidden, dim if out_dim is None else out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, out_dim, H, W)."""
        return self.fc2(recomputable(self.dwconv, self.fc1(x)))


class FFN(nn.Module):
    """Feed-forward of VMamba and Swin: 1x1 convolution, GELU, 1x1 convolution.

    Args:
        dim: Number of channels.
        hidden: Number of hidden channels; 4 * dim by default.
    """

    def __init__(self, dim: int, hidden: int | None = None):
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        self.fc1 = pointwise_conv(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = pointwise_conv(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        return self.fc2(recomputable(self.act, self.fc1(x)))


FFNS: dict[str, Callable[..., nn.Module]] = {'conv': ConvFFN, 'plain': FFN}


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W), with zeros at the right and the bottom to multiples of `multiple`; itself if they are."""
    # These are products: torch.compile simplifies a multiple in a symbolic size, while remainders take it much longer.
    bottom, right = (-(-side // multiple) * multiple - side for side in x.shape[2:])
    return F.pad(x, (0, right, 0, bottom)) if right or bottom else x


class ChannelScale(nn.Module):
    """A weight and a bias per channel, for a shortcut; starts as the identity.

    A depthwise 1x1 convolution, as in the published checkpoints (the paper does not mention it), but no
    `torch.nn.Conv2d`, so that whoever sets the initial values of convolutions leaves it alone. On CPUs and GPUs it is a
    batch norm of fixed statistics, since on a CPU torch convolves channel by channel, up to 130 times slower.

    Args:
        dim: Number of channels.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, 1, 1, 1))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type not in ('cpu', 'cuda'):  # such as meta, where the papers' rule counts the convolution
            return F.conv2d(x, self.weight, self.bias, groups=self.weight.shape[0])
        # (x - 0) / sqrt(0 + 1) * weight + bias. Products and sums would convert the parameters to 16 bits, and their
        # gradients would take eight operators, three of which write a map.
        zeros = torch.zeros_like(self.bias)
        return F.batch_norm(x, zeros, zeros, self.weight.flatten(), self.bias, eps=1.0)

    def extra_repr(self) -> str:
        return str(self.weight.shape[0])


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): in training, drop a sample's branch with probability
    `rate` and scale the kept ones by 1 / (1 - rate)."""

    def __init__(self, rate: float = 0.0):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f'drop-path rate: expected 0 <= rate < 1, got {rate}')
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * self._kept(x).div_(1 - self.rate) if self._drops() else x

    def add(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        """shortcut + self(branch), both (B, C, H, W), in one pass over memory."""
        if not self._drops():
            return shortcut + branch
        return torch.addcmul(shortcut, branch, self._kept(branch), value=1 / (1 - self.rate))

    def _drops(self) -> bool:
        return self.training and self.rate > 0

    def _kept(self, x: Tensor) -> Tensor:
        """(B, 1, 1, 1): 1, or 0 for samples that are dropped."""
        return x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(1 - self.rate)

    def extra_repr(self) -> str:
        return f'rate={self.rate:g}'


def reset(module: nn.Module) -> None:
    """The initial values of one module that can set them again, for `Module.apply`."""
    if hasattr(module, 'reset_parameters'):
        module.reset_parameters()


def init_weights(module: nn.Module) -> None:
    """The published initial values of one convolution or linear layer, for `Module.apply`.

    Weights from a normal of std 0.02 truncated at +-2, biases 0. Norms keep torch's 1 and 0, and
    the scan's own parameters are set where they are made. On the meta device, where torch takes 3 ms for a truncated
    normal that has no values, nothing is done.
    """
    if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.is_meta:
        nn.init.trunc_normal_(module.weight, std=0.02, a=-2.0, b=2.0)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
