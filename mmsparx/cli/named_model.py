"""A model with what the commands have to know of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmsparx.cli.preprocessing import Preprocessing
from mmsparx.weights.loading import backbones_of

# This stands in the place of a checkpoint for the weights that the authors of a network have published.
PUBLISHED = 'published'
# timm's feature levels of smaller strides are those of the stem.
_FIRST_STRIDE = 4


@dataclass
class NamedModel:
    """A model in evaluation mode, with what a command has to know of it.

    Attributes:
        module: Model.
        name: Name that it was asked for by.
        label: Name in figures and tables.
        checkpoint: Source of its weights; None for random ones.
        seed: Seed of random weights.
        preprocessing: Preparation of its images.
        config: Config that it was built from; None of a model of timm's.
        classes: Names of its classes, where they are known.
        palette: Their colours, (R, G, B) from 0 to 255, where these are known.
    """

    module: nn.Module
    name: str
    label: str
    checkpoint: str | None
    seed: int
    preprocessing: Preprocessing
    config: Config | None = None
    classes: tuple[str, ...] | None = None
    palette: Sequence[Sequence[int]] | None = None

    @property
    def weights(self) -> str:
        """A description of its weights."""
        if self.checkpoint is None:
            return f'random weights (seed {self.seed})'
        return 'published weights' if self.checkpoint == PUBLISHED else f'weights of {Path(self.checkpoint).name}'

    @property
    def is_random(self) -> bool:
        """Whether nothing has trained it."""
        return self.checkpoint is None

    @property
    def library(self) -> str:
        """The library whose model it is: timm, or the scope that the config names."""
        return 'timm' if self.config is None else self.config.get('default_scope') or 'mmengine'

    @property
    def backbone(self) -> nn.Module | None:
        """The network of this package in it; None where there is none, or there are several."""
        found = list(backbones_of(self.module).values())
        return found[0] if len(found) == 1 else None

    @property
    def stage_modules(self) -> list[tuple[str, nn.Module]]:
        """Name and module of each stage, in order; timm's levels of features from stride 4 on.

        Raises:
            ValueError: The model is neither over a network of this package nor one of timm's with levels of features.
        """
        if (backbone := self.backbone) is not None:
            names = {id(module): name for name, module in self.module.named_modules()}
            return [(names[id(stage)], stage) for stage in backbone.stages]
        return [(info['module'], self.module.get_submodule(info['module'])) for _, info in self._levels()]

    def stages(self, x: Tensor) -> list[Tensor]:
        """The map that each stage gives, (B, C, h, w), before any output norm.

        Args:
            x: Inputs, (B, 3, H, W), on the model's device.

        Raises:
            ValueError: See `stage_modules`.
        """
        backbone = self.backbone
        if backbone is None:
            taken = [i for i, _ in self._levels()]
            return self.module.forward_intermediates(x, indices=taken, norm=False, intermediates_only=True)
        maps = []
        hooks = [stage.register_forward_hook(lambda _, __, y: maps.append(y)) for stage in backbone.stages]
        try:
            backbone(x)
        finally:
            for hook in hooks:
                hook.remove()
        return maps

    def forward(self, x: Tensor) -> object:
        """Run what looks at images, (B, 3, H, W): the backbone of a config's model, or the whole of one of timm's."""
        return (self.module if self.config is None else self.module.backbone)(x)

    def _levels(self) -> list[tuple[int, dict]]:
        """timm's levels of features that are stages: position and description."""
        info = getattr(self.module, 'feature_info', None)
        if self.config is not None or not info or not hasattr(self.module, 'forward_intermediates'):
            raise ValueError(
                f'{self.label}: expected a model over a network of mmsparx, or one of timm with levels of features '
                f'(forward_intermediates), got {type(self.module).__name__}'
            )
        levels = list(enumerate(getattr(info, 'info', info)))
        return [(i, level) for i, level in levels if level['reduction'] >= _FIRST_STRIDE] or levels

    def at_size(self, side: int | None) -> 'NamedModel':
        """Take square images of another side, in the model as well where it has to know; None leaves it as it is.

        Raises:
            ValueError: The model does not take that size.
        """
        self.preprocessing = self.preprocessing.at_size(side)
        if side is not None and self.config is None and hasattr(self.module, 'set_input_size'):
            try:
                self.module.set_input_size(img_size=(side, side))
            except (RuntimeError, AssertionError, ZeroDivisionError) as error:  # whatever timm's networks raise
                raise ValueError(f'{self.label} does not take images of {side}x{side}: {error}') from error
            self.module.to(next(self.module.parameters()).device)
        return self

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Let types without a scope be those of the config's library."""
        with scope_of(self.config):
            yield


@contextmanager
def scope_of(cfg: Config | None) -> Iterator[None]:
    """Let types without a scope be those of a config's library; mmengine's for None."""
    with DefaultScope.overwrite_default_scope(None if cfg is None else cfg.get('default_scope')):
        yield
