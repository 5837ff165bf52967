"""Similarity of layers by linear centered kernel alignment (CKA), over minibatches of images.

Source: Kornblith et al. (2019); over minibatches by the unbiased estimate of HSIC, Nguyen et al. (2021), as in the
paper (SparX, Fig. 5). Only the Gram matrices of a minibatch are kept, one for each layer, and no features.

The package pytorch-cka 1.1.3 has the same estimate, and meets the tests of this module where it takes the place of
`hsic`. Its driver adds up in float32, clips to 0..1 and does not centre the features, which cancel in float32 then: 32
images of 20,000 features with an offset of 10 gave 0 for a similarity of 0.0141. So hooks, Gram matrices and sums are
ours in any case; what is left to take from a release that calls itself alpha are the ten lines of `hsic`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# The unbiased estimate of a minibatch divides by n - 3.
LEAST = 4
# Number of features of an image that are in float64 at once.
_CHUNK = 1 << 16


def gram(features: Tensor) -> Tensor:
    """The Gram matrix of images' features, each of which is centred over the images first.

    Args:
        features: Features of n images, (n, ...), of any floating type.

    Returns:
        (n, n), float64, on the features' device (on the CPU where that has no float64).
    """
    x = features.detach().flatten(1)
    x = x.cpu() if x.device.type == 'mps' else x
    total = x.new_zeros(len(x), len(x), dtype=torch.float64)
    for part in x.split(_CHUNK, dim=1):
        part = part.double()
        part = part - part.mean(0)
        total += part @ part.T
    return total


def hsic(grams: Tensor) -> Tensor:
    """The unbiased estimates of HSIC between all pairs of layers, from one minibatch.

    With K and L without their diagonals, and n images, it is
    (tr(KL) + 1'K1 1'L1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1'KL1) / (n (n - 3)).

    Args:
        grams: Gram matrices of the layers, (layers, n, n).

    Returns:
        (layers, layers).

    Raises:
        ValueError: There are fewer than 4 images.
    """
    n = grams.shape[1]
    if n < LEAST:
        raise ValueError(f'expected at least {LEAST} images in a minibatch, got {n}; the unbiased estimate needs them')
    k = grams - torch.diag_embed(grams.diagonal(dim1=1, dim2=2))
    rows = k.sum(2)  # (layers, n)
    sums = rows.sum(1)
    traces = k.flatten(1) @ k.flatten(1).T  # of KL, as the matrices are symmetric
    means = torch.outer(sums, sums) / ((n - 1) * (n - 2))
    return (traces + means - 2 / (n - 2) * rows @ rows.T) / (n * (n - 3))


class MinibatchCKA:
    """CKA between all pairs of layers: HSIC is added up over minibatches, and divided at the end."""

    def __init__(self):
        self._sum: Tensor | None = None

    def update(self, features: Sequence[Tensor]) -> None:
        """Add a minibatch.

        Args:
            features: Features of the same n images, (n, ...), one tensor for each layer.

        Raises:
            ValueError: There are fewer than 4 images, or not the same number in all layers.
        """
        counts = {len(x) for x in features}
        if len(counts) != 1:
            raise ValueError(f'expected features of the same images in all layers, got numbers of {sorted(counts)}')
        self.update_grams([gram(x) for x in features])

    def update_grams(self, grams: Sequence[Tensor]) -> None:
        """Add a minibatch by the layers' matrices of `gram`; errors as for `hsic`."""
        added = hsic(torch.stack([each.cpu() for each in grams]))
        self._sum = added if self._sum is None else self._sum + added

    def matrix(self) -> Tensor:
        """CKA between all pairs of layers, (layers, layers), float64.

        Values below 0 occur where there is no similarity, as the estimate is unbiased. A layer that gives the same for
        all images has NaN.

        Raises:
            ValueError: There has been no minibatch.
        """
        if self._sum is None:
            raise ValueError('expected at least one minibatch, got none')
        own = self._sum.diagonal()
        return self._sum / torch.outer(own, own).sqrt()


@dataclass
class Similarity:
    """The similarity of the layers of a network.

    Attributes:
        names: Names of the layers, in order.
        matrix: CKA between them, (layers, layers), float64.
        images: Number of images.
        minibatches: Number of minibatches.
        left_out: Number of images that were left out, in minibatches of fewer than 4.
    """

    names: list[str]
    matrix: Tensor
    images: int
    minibatches: int
    left_out: int

    @property
    def mean_off_diagonal(self) -> float:
        """Mean over pairs of different layers, NaN left out."""
        apart = ~torch.eye(len(self.names), dtype=torch.bool)
        return self.matrix[apart].nanmean().item()

    @property
    def constant(self) -> list[str]:
        """Names of the layers that give the same for all images."""
        return [name for name, value in zip(self.names, self.matrix.diagonal(), strict=True) if value.isnan()]


def layer_similarity(
    forward: Callable[[Tensor], object],
    layers: Mapping[str, nn.Module],
    batches: Iterable[Tensor],
    inputs: bool = False,
) -> Similarity:
    """Compare what layers of a network give for the same images.

    Args:
        forward: Function of images (n, C, H, W) that runs the network once, in evaluation mode.
        layers: Modules of the network by the names to give them, each of which runs once.
        batches: Minibatches of images; those of fewer than 4 are left out.
        inputs: True to compare the inputs of the modules instead of their outputs.

    Raises:
        ValueError: A module does not run once, or what it gives is not finite, or not a tensor with an entry for each
            image; or there are fewer than 4 images.
    """
    total, images, minibatches, left_out = MinibatchCKA(), 0, 0, 0
    for batch in batches:
        if len(batch) < LEAST:
            left_out += len(batch)
            continue
        with _Grams(layers, len(batch), inputs) as found, torch.no_grad():
            forward(batch)
        total.update_grams(found.in_order())
        images += len(batch)
        minibatches += 1
    if not minibatches:
        raise ValueError(f'expected at least {LEAST} images in a minibatch, got {left_out} images in all')
    return Similarity(list(layers), total.matrix(), images, minibatches, left_out)


class _Grams:
    """Turns the outputs of modules into Gram matrices at once."""

    def __init__(self, layers: Mapping[str, nn.Module], images: int, inputs: bool):
        self.layers, self.images, self.inputs = layers, images, inputs
        self.grams: dict[str, Tensor] = {}

    def __enter__(self) -> '_Grams':
        self.hooks = [module.register_forward_hook(self._hook(name)) for name, module in self.layers.items()]
        return self

    def __exit__(self, *_) -> None:
        for hook in self.hooks:
            hook.remove()

    def _hook(self, name: str) -> Callable:
        def keep(module, args, output):
            x = args[0] if self.inputs else output
            if not isinstance(x, Tensor) or x.dim() < 2 or len(x) != self.images:
                got = f'shape {tuple(x.shape)}' if isinstance(x, Tensor) else type(x).__name__
                raise ValueError(
                    f'{name}: expected a tensor with an entry for each of {self.images} images, got {got}; choose '
                    'another module'
                )
            if name in self.grams:
                raise ValueError(f'{name} runs several times for an image; choose a module that runs once')
            found = gram(x)
            if not found.isfinite().all():
                raise ValueError(f'{name} gives values that are not finite')
            self.grams[name] = found

        return keep

    def in_order(self) -> list[Tensor]:
        """The matrices of all layers."""
        if missing := [name for name in self.layers if name not in self.grams]:
            raise ValueError(f'{missing[0]} does not run where the network looks at an image; choose another module')
        return [self.grams[name] for name in self.layers]
