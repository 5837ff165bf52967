"""A stage of a network: normal and ganglion layers, wired by a plan."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmsparx.layers.basic import FFNS, ChannelScale, DepthwiseConv2d, DropPath
from mmsparx.layers.checkpointing import checkpointed
from mmsparx.layers.norm import build_norm
from mmsparx.layers.recompute import recomputable, recomputing
from mmsparx.models.connection import StagePlan
from mmsparx.models.style import Style


class SparXLayer(nn.Module):
    """One layer, normal or ganglion: position encoding, token mixer, feed-forward.

    x + dwconv(x), where the style has position encoding, then twice scale(x) + drop_path(branch(norm(x))). A ganglion
    layer is one whose mixer has an aggregator and is given sources.

    Args:
        dim: Number of channels.
        mixer: Token mixer.
        style: Style of the network.
        drop_path: Stochastic-depth rate of both branches.
        shortcut_scale: Whether the shortcuts carry a weight and a bias per channel.
    """

    def __init__(self, dim: int, mixer: nn.Module, style: Style, drop_path: float, shortcut_scale: bool):
        super().__init__()
        self.position = DepthwiseConv2d(dim, 3, residual=True) if style.position_encoding else None
        self.norm1 = build_norm(dim, {'type': style.norm})
        self.mixer = mixer
        self.scale1 = ChannelScale(dim) if shortcut_scale else nn.Identity()
        self.norm2 = build_norm(dim, {'type': style.norm})
        self.ffn = FFNS[style.ffn](dim)
        self.scale2 = ChannelScale(dim) if shortcut_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        """(B, C, H, W), and a ganglion layer's sources of the same shape -> (B, C, H, W)."""
        return recomputing(self._forward, x, *sources)

    def _forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        if self.position is not None:
            x = recomputable(self.position, x)
        x = self.drop_path.add(self.scale1(x), self.mixer(recomputable(self.norm1, x), *sources))
        return self.drop_path.add(self.scale2(x), self.ffn(recomputable(self.norm2, x)))


class SparXStage(nn.Module):
    """The downsampling to a stage, and its layers, wired by its plan.

    Args:
        plan: Connection plan: for each layer, the layers that it reads.
        layers: Layers in order.
        downsample: Downsampling of the previous stage's output; None for the first stage.
        with_cp: Whether layers are recomputed in backward instead of keeping their activations.
    """

    def __init__(self, plan: StagePlan, layers: Sequence[SparXLayer], downsample: nn.Module | None, with_cp: bool):
        super().__init__()
        self.plan = plan
        # Before the layers, since `Module.apply` draws initial values in this order.
        self.downsample = downsample
        self.layers = nn.ModuleList(layers)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """The previous stage's output -> the last layer's output, (B, C, H, W)."""
        if self.downsample is not None:
            x = recomputing(self.downsample, x)
        features = [x]
        for i, layer in enumerate(self.layers):
            inputs = (features[-1], *(features[j] for j in self.plan.sources(i)))
            recomputed = self.with_cp and torch.is_grad_enabled()
            features.append(checkpointed(layer, *inputs) if recomputed else layer(*inputs))
        return features[-1]

    def extra_repr(self) -> str:
        return f'plan: {self.plan}'
