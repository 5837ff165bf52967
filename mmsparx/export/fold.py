"""Folding for inference: fewer passes over memory, the same mathematics."""

import copy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from mmsparx.layers.basic import FFN, ChannelScale, ConvFFN, DepthwiseConv2d
from mmsparx.layers.mixers import SS2D, SSM, WindowAttention
from mmsparx.layers.norm import BatchNorm
from mmsparx.models.stage import SparXLayer

Model = TypeVar('Model', bound=nn.Module)
# The last linear map of each branch.
_LAST = {SS2D: 'out_proj', SSM: 'out_proj', WindowAttention: 'proj', FFN: 'fc2', ConvFFN: 'fc2'}


def fold(model: Model) -> Model:
    """A copy of a model for inference, with parameters that are folded into each other.

    - Batch norms go into the convolutions before them: in every `nn.Sequential`, and in mmcv's `ConvModule`. GELU after
      a depthwise convolution of this package goes into its operator.
    - The residual of a depthwise convolution, x + conv(x), becomes 1 at the centre of its windows.
    - The bias of a shortcut scale goes into the bias of its branch's last convolution, and the weight and the sum of
      the two become one operation.

    What is computed stays the same but for rounding. Parameters change, so the copy takes no checkpoints.

    Args:
        model: Any model, such as a network of this package, or an OpenMMLab model over one.

    Returns:
        The copy, in evaluation mode.
    """
    model = copy.deepcopy(model).requires_grad_(False)
    model.eval()
    for module in list(model.modules()):
        if isinstance(module, DepthwiseConv2d):
            fold_residual(module)
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            _fold_sequence(module)
        elif _is_conv_module(module):
            fold_batch_norm(module.conv, module.norm)
            setattr(module, module.norm_name, nn.Identity())
    for name, module in list(model.named_modules()):
        if type(module) is SparXLayer:
            _replace(model, name, FoldedLayer(module))
    return model


def fold_batch_norm(conv: nn.Conv2d, norm: BatchNorm) -> None:
    """Change a convolution to what it and the batch norm after it compute in evaluation mode."""
    scale, shift = _affine(norm)
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    bias = shift if conv.bias is None else conv.bias.double() * scale + shift
    _set(conv, weight, bias)


def fold_residual(conv: DepthwiseConv2d) -> None:
    """Change a depthwise convolution with a residual to one without that computes the same."""
    if conv.residual:
        side = conv.kernel_size[0]
        weight = conv.weight.double()
        weight[:, :, side // 2, side // 2] += 1
        _set(conv, weight, conv.bias)
        conv.residual = False


class FoldedLayer(nn.Module):
    """A `SparXLayer` for inference: weight * x + branch for each shortcut, in one operation.

    Args:
        layer: Layer whose parts it takes; the bias of its scales goes into its branches.
    """

    def __init__(self, layer: SparXLayer):
        super().__init__()
        self.position = layer.position
        self.norm1, self.mixer = layer.norm1, layer.mixer
        self.norm2, self.ffn = layer.norm2, layer.ffn
        self.scale1 = _fold_scale(layer.scale1, layer.mixer)
        self.scale2 = _fold_scale(layer.scale2, layer.ffn)

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        """(B, C, H, W), and a ganglion layer's sources of the same shape -> (B, C, H, W)."""
        if self.position is not None:
            x = self.position(x)
        x = self.scale1(x, self.mixer(self.norm1(x), *sources))
        return self.scale2(x, self.ffn(self.norm2(x)))


class Shortcut(nn.Module):
    """weight * x + bias + branch; without weight and bias, x + branch.

    Args:
        weight: (C, 1, 1), or None.
        bias: (C, 1, 1), or None.
    """

    def __init__(self, weight: Tensor | None = None, bias: Tensor | None = None):
        super().__init__()
        for name, value in (('weight', weight), ('bias', bias)):
            self.register_parameter(name, None if value is None else nn.Parameter(value, requires_grad=False))

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """Two (B, C, H, W) -> one."""
        if self.weight is None:
            return x + branch
        if self.bias is not None:
            branch = branch + self.bias.to(branch.dtype)
        return torch.addcmul(branch, x, self.weight.to(branch.dtype))  # else autocast would make all of it float32


def _fold_scale(scale: nn.Module, branch: nn.Module) -> Shortcut:
    if isinstance(scale, nn.Identity):
        return Shortcut()
    assert isinstance(scale, ChannelScale)
    weight, bias = scale.weight.view(-1, 1, 1), scale.bias
    last = next((getattr(branch, name) for kind, name in _LAST.items() if isinstance(branch, kind)), None)
    if last is None:  # a mixer of somebody else's
        return Shortcut(weight, bias.view(-1, 1, 1))
    _set(last, last.weight, bias if last.bias is None else last.bias.double() + bias.double())
    return Shortcut(weight)


def _fold_sequence(sequence: nn.Sequential) -> None:
    for conv, name, norm in _neighbours(sequence):
        if _takes_norm(conv) and _has_statistics(norm):
            fold_batch_norm(conv, norm)
            sequence._modules[name] = nn.Identity()
    for conv, name, activation in _neighbours(sequence):
        if type(conv) is DepthwiseConv2d and conv.activation == 'none' and _is_gelu(activation):
            conv.activation = 'gelu'
            sequence._modules[name] = nn.Identity()


def _neighbours(sequence: nn.Sequential) -> list[tuple[nn.Module, str, nn.Module]]:
    """Each module, and the next one after its name, without identities."""
    present = [(name, module) for name, module in sequence._modules.items() if type(module) is not nn.Identity]
    return [(module, name, after) for (_, module), (name, after) in pairwise(present)]


def _takes_norm(module: nn.Module) -> bool:
    plain = not isinstance(module, DepthwiseConv2d) or (not module.residual and module.activation == 'none')
    return type(module) in (nn.Conv2d, DepthwiseConv2d) and plain


def _is_gelu(module: nn.Module) -> bool:
    return type(module) is nn.GELU and module.approximate == 'none'


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, BatchNorm) and module.running_var is not None


def _is_conv_module(module: nn.Module) -> bool:
    """Whether it is mmcv's convolution with a batch norm after it; asked by its parts, as mmcv may not be there."""
    return (
        type(module).__name__ == 'ConvModule'
        and type(getattr(module, 'conv', None)) is nn.Conv2d
        and tuple(getattr(module, 'order', ())[:2]) == ('conv', 'norm')
        and _has_statistics(module.norm)
    )


def _affine(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Factor and offset of a batch norm in evaluation mode, in float64."""
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    shift = -norm.running_mean.double() * scale
    if norm.weight is not None:
        weight, bias = norm.weight.double(), norm.bias.double()
        scale, shift = scale * weight, shift * weight + bias
    return scale, shift


def _set(module: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    dtype = module.weight.dtype
    module.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    module.bias = None if bias is None else nn.Parameter(bias.detach().to(dtype), requires_grad=False)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition('.')
    setattr(model.get_submodule(parent), child, module)
