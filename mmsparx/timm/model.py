"""A classifier over one of the package's networks, with what timm asks of a model."""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from mmsparx.models import SparXNet
from mmsparx.models.architecture import Architecture
from mmsparx.models.classifier import ClassifierHead
from mmsparx.timm.loading import match_checkpoint
from mmsparx.weights import flatten_hook, read_weights


class TimmHead(ClassifierHead):
    """The published head with timm's choices: no classes, no pooling, dropout.

    Args:
        dim: Number of channels.
        num_classes: Number of classes; 0 leaves the linear layer out.
        global_pool: 'avg', or '' for none: the linear layer is applied to every position.
        drop_rate: Rate of the dropout before the linear layer.
        norm: Name of the norm, see `ClassifierHead`.

    Raises:
        ValueError: Another pooling.
    """

    def __init__(self, dim: int, num_classes: int, global_pool: str, drop_rate: float, norm: str):
        if global_pool not in ('avg', ''):
            raise ValueError(f"global_pool: expected 'avg', or '' for none, got {global_pool!r}")
        super().__init__(dim, num_classes, norm)
        self.global_pool = global_pool
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, C, H, W) -> (B, classes), or (B, C) before the linear layer; without pooling (B, ..., H, W)."""
        x = self.drop(self.pre_logits(x) if self.global_pool else self.norm(x))
        if pre_logits:
            return x
        return self.fc(x) if self.global_pool else self.fc(x.movedim(1, -1)).movedim(-1, 1)


class TimmClassifier(nn.Module):
    """A classifier as `timm.create_model` makes it.

    Its parameters have the names of `SparXClassifier`; its features are the stages' last maps,
    un-normalised, of stride 4, 8, 16 and 32.

    Args:
        family: Class of the backbone, as `SparXMamba`.
        arch: Sizes of the backbone, see `SparXNet`.
        num_classes: Number of classes; 0 leaves the linear layer out.
        in_chans: Number of channels of the image.
        global_pool: Pooling of the head, see `TimmHead`.
        drop_rate: Rate of the head's dropout.
        drop_path_rate: Stochastic-depth rate of the last layer.
        device: Device of the parameters.
        dtype: Type of the parameters.
        **backbone: Further options of the backbone, as `with_cp` or `token_mixer`.
    """

    def __init__(
        self,
        family: type[SparXNet],
        arch: str | Mapping | Architecture,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **backbone,
    ):
        super().__init__()
        self.in_chans = in_chans
        self.num_classes = num_classes
        with nullcontext() if device is None else torch.device(device):
            self.backbone = family(
                arch, in_channels=in_chans, drop_path_rate=drop_path_rate, output_norm=False, **backbone
            )
            channels = self.backbone.arch.channels
            self.head = self._head(channels[-1], num_classes, global_pool, drop_rate)
        self.num_features = self.head_hidden_size = channels[-1]
        self.feature_info = [
            {'num_chs': dim, 'reduction': 4 * 2**i, 'module': f'backbone.stages.{i}'} for i, dim in enumerate(channels)
        ]
        self._register_load_state_dict_pre_hook(flatten_hook(self.backbone.weight_names))
        self.to(device=device, dtype=dtype)

    def _head(self, dim: int, num_classes: int, global_pool: str, drop_rate: float) -> TimmHead:
        return TimmHead(dim, num_classes, global_pool, drop_rate, self.backbone.style.norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stage's map, before the head's norm."""
        return self.backbone(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x, pre_logits=pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of some stages, and `forward_features`' unless `intermediates_only`.

        Args:
            x: Images, (B, in_chans, H, W).
            indices: Stages; an int means the last so many, None all.
            norm: Whether the last stage's map goes through the head's norm.
            stop_early: Ignored; `prune_intermediate_layers` removes later stages.
            output_fmt: Format of the maps, 'NCHW'.
            intermediates_only: Whether to return the list alone.

        Raises:
            ValueError: Another format.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt: expected 'NCHW', got {output_fmt!r}")
        maps = self.backbone(x)
        taken, _ = feature_take_indices(len(maps), indices)
        last = len(self.feature_info) - 1
        intermediates = [self.head.norm(maps[i]) if norm and i == last else maps[i] for i in taken]
        return intermediates if intermediates_only else (maps[-1], intermediates)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Take away the stages after the last of `indices`, and what `forward_intermediates` does not need."""
        backbone = self.backbone
        taken, last = feature_take_indices(len(backbone.stages), indices)
        if last + 1 < len(backbone.stages):
            prune_norm = True  # it is the last stage's
            backbone.stages = backbone.stages[: last + 1]
            backbone.out_indices = tuple(range(last + 1))
            self.num_features = self.head_hidden_size = self.feature_info[last]['num_chs']
        if prune_norm:
            self.head.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, '')
        return taken

    def init_weights(self, needs_reset: bool = True) -> None:
        """Set the initial values of every parameter and buffer again, as after `to_empty`.

        Args:
            needs_reset: Ignored, as everything is always set; timm's own models take it.
        """
        self.backbone.reset_parameters()
        self.head.reset_parameters()

    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new linear layer for `num_classes`, or none for 0; the norm and, unless given, the pooling stay."""
        pool = self.head.global_pool if global_pool is None else global_pool
        head = self._head(self.num_features, num_classes, pool, self.head.drop.p)
        head.fc.to(next(self.parameters()))
        head.norm = self.head.norm
        self.head = head.train(self.training)
        self.num_classes = num_classes

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for stage in self.backbone.stages:
            stage.with_cp = enable

    def no_weight_decay(self) -> set[str]:
        """The tables of the windows' relative position biases, as in Swin's training.

        timm itself spares what has at most one axis, or is called bias, which is what the published SparX and VMamba
        were trained with: the scans' decays and the biases of their steps have two axes, and decay.
        """
        return {name for name, _ in self.named_parameters() if name.endswith('.relative_position_bias_table')}

    def group_matcher(self, coarse: bool = False) -> dict:
        """The layers of layer-wise learning rates: the layers, or the stages if `coarse`."""
        stage = r'^backbone\.stages\.(\d+)'
        with_previous = (99999,)
        stages = len(self.backbone.stages)
        layers = [
            (rf'{stage}\.layers\.(\d+)', None),
            # Each follows the layers of the stage before it.
            *((rf'^backbone\.stages\.{i}\.downsample', (i - 1, *with_previous)) for i in range(1, stages)),
            (r'^head\.norm', with_previous),
        ]
        return {'stem': r'^backbone\.stem', 'blocks': stage if coarse else layers}

    def load_pretrained(self, source: str | os.PathLike) -> None:
        """Load a published or own classifier, strictly and weights-only.

        As timm does it, a head of other classes starts fresh and the stem is fitted to other channels.

        Raises:
            RuntimeError, ValueError: See `mmsparx.models.load_pretrained`.
        """
        self.load_state_dict(match_checkpoint(read_weights(source).state_dict, self, source), strict=False)
