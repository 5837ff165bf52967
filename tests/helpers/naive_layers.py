"""Parts of the aggregators, computed position by position and channel by channel from parameters by name."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers import relative_error

BN = {'type': 'BN'}


def gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


class Naive:
    """The operations of one layer, whose parameters it takes by name; names are those of the layer.

    Args:
        weights: Parameters and running statistics by name.
        training: Whether batch norms take the statistics of the batch.
    """

    def __init__(self, weights: dict[str, Tensor], training: bool = False):
        self.weights = weights
        self.training = training

    def pointwise(self, name: str, x: Tensor, groups: int = 1) -> Tensor:
        """1x1 convolution."""
        kernel, bias = self.weights[f'{name}.weight'], self.weights.get(f'{name}.bias')
        size, per = kernel.shape[0] // groups, kernel.shape[1]
        parts = [
            torch.einsum('oc,bchw->bohw', kernel[g * size : (g + 1) * size, :, 0, 0], x[:, g * per : (g + 1) * per])
            for g in range(groups)
        ]
        out = torch.cat(parts, 1)
        return out if bias is None else out + bias[:, None, None]

    def depthwise(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """Depthwise convolution with half its kernel of padding, position by position."""
        kernel, bias = self.weights[f'{name}.weight'], self.weights.get(f'{name}.bias')
        side = kernel.shape[-1]
        height, width = (math.ceil(n / stride) for n in x.shape[2:])
        x = F.pad(x, (side // 2, side, side // 2, side))
        rows = [
            torch.stack(
                [
                    (x[:, :, i * stride : i * stride + side, j * stride : j * stride + side] * kernel[:, 0]).sum((2, 3))
                    for j in range(width)
                ],
                -1,
            )
            for i in range(height)
        ]
        out = torch.stack(rows, -2)
        return out if bias is None else out + bias[:, None, None]

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        if self.training:
            mean = x.mean((0, 2, 3))
            var = (x - mean[:, None, None]).square().mean((0, 2, 3))
        else:
            mean, var = self.weights[f'{name}.running_mean'], self.weights[f'{name}.running_var']
        x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return x * self.weights[f'{name}.weight'][:, None, None] + self.weights[f'{name}.bias'][:, None, None]

    def map_norm(self, name: str, x: Tensor) -> Tensor:
        """GroupNorm of one group."""
        mean = x.mean((1, 2, 3), keepdim=True)
        var = (x - mean).square().mean((1, 2, 3), keepdim=True)
        x = (x - mean) / (var + 1e-5).sqrt()
        return x * self.weights[f'{name}.weight'][:, None, None] + self.weights[f'{name}.bias'][:, None, None]

    def reduce(self, name: str, x: Tensor, stride: int) -> Tensor:
        if stride == 1:
            return x
        return gelu(self.batch_norm(f'{name}.1', self.depthwise(f'{name}.0', x, stride)))

    def source_projection(self, sources: list[Tensor]) -> Tensor:
        y = self.map_norm('source_norm', torch.cat(sources, 1))
        y = gelu(self.batch_norm('source_proj.1', self.depthwise('source_proj.0', y)))
        return gelu(self.pointwise('source_proj.3', y))

    def grouped_mix(self, maps: list[Tensor], out_dim: int) -> Tensor:
        """Interleave, depthwise convolution, GELU, grouped 1x1 convolution, missing channels."""
        concatenated, channels = torch.cat(maps, 1), maps[0].shape[1]
        order = torch.empty(3 * channels, dtype=torch.long)
        for c in range(channels):
            for g in range(3):
                order[g * channels + c] = c * 3 + g
        x = self.pointwise('mix.2', gelu(self.depthwise('mix.0', concatenated[:, order])), groups=3)
        missing = out_dim - x.shape[1]
        if not missing:
            return x
        flat = x.permute(0, 2, 3, 1).flatten(1, 2)
        pooled = F.adaptive_avg_pool1d(flat, missing).transpose(1, 2).unflatten(2, x.shape[2:])
        return torch.cat((x, pooled), 1)

    def conv_ffn(self, name: str, x: Tensor) -> Tensor:
        x = self.pointwise(f'{name}.fc1', x)
        return self.pointwise(f'{name}.fc2', gelu(x + self.depthwise(f'{name}.dwconv', x)))


def token_attention(query: Tensor, keys: list[Tensor], values: list[Tensor], heads: int) -> Tensor:
    """Every position of the query map attends to all positions of all key maps, head by head."""
    batch, channels, height, width = query.shape
    size = channels // heads
    key = torch.cat([k.flatten(2) for k in keys], 2)
    value = torch.cat([v.flatten(2) for v in values], 2)
    samples = []
    for b in range(batch):
        outs = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for i in range(height):
                for j in range(width):
                    scores = (query[b, part, i, j, None] * key[b, part]).sum(0) / math.sqrt(size)
                    weights = torch.exp(scores - scores.max().detach())
                    outs.append((weights / weights.sum() * value[b, part]).sum(1))
        out = torch.stack(outs).view(heads, height, width, size)
        samples.append(out.permute(0, 3, 1, 2).flatten(0, 1))
    return torch.stack(samples)


def check_against(layer: nn.Module, naive, inputs: list[Tensor], without_effect: tuple[str, ...] = ()) -> None:
    """Compare a float64 layer's output and its gradients in all inputs and parameters with a naive function's.

    Args:
        layer: Layer to check, in its present mode.
        naive: Function of (weights by name, *inputs).
        inputs: Maps that the layer takes.
        without_effect: Parameters that the output does not depend on, whose gradients are 0 up to rounding.
    """
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    weights = {name: x.detach().clone() for name, x in layer.state_dict().items()}
    parameters = [name for name, _ in layer.named_parameters()]
    for name in parameters:
        weights[name].requires_grad_()
    expected = naive(weights, *inputs)
    factor = torch.randn(expected.shape, dtype=expected.dtype)
    leaves = [*inputs, *(weights[name] for name in parameters)]
    truth = torch.autograd.grad((expected * factor).sum(), leaves, materialize_grads=True)
    out = layer(*inputs)
    assert relative_error(out, expected) < 1e-12
    ours = torch.autograd.grad((out * factor).sum(), [*inputs, *layer.parameters()], materialize_grads=True)
    names = [*(f'input {i}' for i in range(len(inputs))), *parameters]
    scale = max(x.norm().item() for x in truth)
    for name, gradient, wanted in zip(names, ours, truth, strict=True):
        if name in without_effect:
            assert max(gradient.norm(), wanted.norm()) < 1e-12 * scale, name
        else:
            assert relative_error(gradient, wanted) < 1e-12, name
