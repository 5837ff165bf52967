"""A backbone with the published classification head."""

from collections.abc import Mapping

from torch import Tensor, nn
from typing_extensions import Self

from mmsparx.hub import HubModel
from mmsparx.layers.basic import init_weights, reset
from mmsparx.layers.norm import build_norm
from mmsparx.models.backbones import SparXNet
from mmsparx.weights import flatten_hook


class ClassifierHead(nn.Module):
    """Norm, global average pooling, linear: (B, C, H, W) -> (B, classes).

    Args:
        dim: Number of channels.
        num_classes: Number of classes; 0 leaves the linear layer out.
        norm: Name of the norm, see `mmsparx.layers.norm.NORMS`: that of the backbone's style, GroupNorm with one group
            in the published SparX classifiers.
    """

    def __init__(self, dim: int, num_classes: int, norm: str = 'GN'):
        super().__init__()
        self.norm = build_norm(dim, {'type': norm})
        self.fc = nn.Linear(dim, num_classes) if num_classes else nn.Identity()
        self.fc.apply(init_weights)

    def reset_parameters(self) -> None:
        """Set all initial values again."""
        self.norm.apply(reset)
        self.fc.apply(init_weights)

    def pre_logits(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C)."""
        return self.norm(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pre_logits(x))


class SparXClassifier(HubModel, nn.Module):
    """An ImageNet classifier in plain torch: backbone and head.

    `from_pretrained`, `save_pretrained` and `push_to_hub` are those of `mmsparx.hub.HubModel`.

    Args:
        backbone: Backbone that returns one map, un-normalised (`out_indices=(3,), output_norm=False`).
        num_classes: Number of classes; 0 leaves the linear layer out.

    Raises:
        ValueError: The backbone has several outputs, or output norms.
    """

    pipeline_tag = 'image-classification'

    def __init__(self, backbone: SparXNet, num_classes: int = 1000):
        super().__init__()
        if len(backbone.out_indices) != 1 or len(backbone.out_norms):
            raise ValueError(
                'SparXClassifier: expected a backbone with out_indices=(last stage,) and output_norm=False, got '
                f'out_indices={backbone.out_indices}, output_norm={len(backbone.out_norms) > 0}'
            )
        self.backbone = backbone
        dim = backbone.arch.channels[backbone.out_indices[0]]
        self.head = ClassifierHead(dim, num_classes, backbone.style.norm)
        self._register_load_state_dict_pre_hook(flatten_hook(backbone.weight_names))

    def hub_arguments(self) -> dict[str, object]:
        """The arguments of the classifier, with its backbone's config."""
        return {'backbone': self.backbone.to_config(), **super().hub_arguments()}

    @classmethod
    def from_config(
        cls, config: Mapping, source: str = 'config.json', backbone: Mapping | None = None, **options
    ) -> Self:
        """Build a classifier from what `to_config` gives; see `HubModel.from_config`.

        Args:
            config: Data as from JSON.
            source: Name of the file, for messages.
            backbone: Arguments of the backbone in the place of those of the config.
            **options: The same of the classifier.

        Raises:
            ValueError: See `HubModel.from_config`; or the config has no backbone.
        """
        network = cls._network_of(config, source)
        rest = dict(config)
        if not isinstance(given := rest.pop('backbone', None), Mapping):
            raise ValueError(
                f"{source}: expected a classifier, with the config of its backbone as 'backbone', got none"
            )
        arguments = network._arguments_of(rest, source)
        arguments['backbone'] = SparXNet.from_config(given, f'{source}: backbone', **(backbone or {}))
        return network._build({**arguments, **options}, source)

    def init_weights(self) -> None:
        """Set all initial values again, as for a classifier from `torch.device('meta')` after `to_empty`."""
        self.backbone.reset_parameters()
        self.head.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes)."""
        return self.head(self.backbone(x)[0])
