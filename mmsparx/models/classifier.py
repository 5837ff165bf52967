"""A backbone with the published classification head."""

from torch import Tensor, nn

from mmsparx.layers.basic import init_weights
from mmsparx.layers.norm import map_norm
from mmsparx.models.backbones import SparXNet
from mmsparx.models.checkpoint import rename_published


class ClassifierHead(nn.Module):
    """GroupNorm with one group, global average pooling, linear: (B, C, H, W) -> (B, classes)."""

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        self.norm = map_norm(dim)
        self.fc = nn.Linear(dim, num_classes)
        self.fc.apply(init_weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(x).mean((2, 3)))


class SparXClassifier(nn.Module):
    """An ImageNet classifier in plain torch: backbone and head.

    Args:
        backbone: returns one map, un-normalised (`out_indices=(3,), output_norm=False`).
        num_classes: of the head.

    Raises:
        ValueError: a backbone of several outputs, or with output norms.
    """

    def __init__(self, backbone: SparXNet, num_classes: int = 1000):
        super().__init__()
        if len(backbone.out_indices) != 1 or len(backbone.out_norms):
            raise ValueError(
                'SparXClassifier: expected a backbone with out_indices=(last stage,) and output_norm=False, got '
                f'out_indices={backbone.out_indices}, output_norm={len(backbone.out_norms) > 0}'
            )
        self.backbone = backbone
        self.head = ClassifierHead(backbone.arch.channels[backbone.out_indices[0]], num_classes)
        self._register_load_state_dict_pre_hook(_accept_published_names)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes)."""
        return self.head(self.backbone(x)[0])


def _accept_published_names(state_dict, prefix, *_) -> None:
    """A published classification file, which is flat, loads by `load_state_dict`."""
    rename_published(state_dict, prefix)
    for name in [name for name in state_dict if name.startswith((f'{prefix}stem.', f'{prefix}stages.'))]:
        state_dict[f'{prefix}backbone.{name.removeprefix(prefix)}'] = state_dict.pop(name)
