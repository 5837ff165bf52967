"""The published classification head for mmpretrain's `ImageClassifier`. Needs mmpretrain."""

from collections.abc import Mapping

from mmpretrain.models import ClsHead
from torch import Tensor, nn

from mmsparx.models.classifier import ClassifierHead
from mmsparx.models.style import Style


class SparXClsHead(ClsHead):
    """Norm, global average pooling, linear, as in the published classifiers.

    Its parameters have `SparXClassifier`'s names, so the same files load into an `ImageClassifier`. In a
    config it is `type='mmsparx.SparXClsHead'`, and the backbone has `out_indices=(3,), output_norm=False`.

    Args:
        in_channels: Number of channels of the last map.
        num_classes: Number of classes of the data.
        style: Style of the backbone, whose norm the head has: 'sparx' for `SparXMamba`, 'swin' for `SparXSwin`,
            'vmamba' for `VMamba`, or what the backbone is given as its `style`.
        **options: Options `loss`, `topk`, `cal_acc` and `init_cfg` of mmpretrain's `ClsHead`.

    Raises:
        ValueError: No classes, or an unknown style.
    """

    def __init__(self, in_channels: int, num_classes: int = 1000, style: str | Mapping | Style = 'sparx', **options):
        super().__init__(**options)
        if num_classes < 1:
            raise ValueError(f'SparXClsHead: expected num_classes of at least 1, got {num_classes}')
        self.style = Style.of(style)
        head = ClassifierHead(in_channels, num_classes, self.style.norm)
        self.norm, self.fc = head.norm, head.fc

    def check_backbone(self, backbone: nn.Module) -> None:
        """Refuse a backbone of another norm, whose weights would fit all the same; asked before weights are loaded.

        Raises:
            ValueError: The head has the norm of another style.
        """
        wanted = backbone.style.norm
        if self.style.norm != wanted:
            raise ValueError(
                f'SparXClsHead: expected the norm of the backbone, a {type(backbone).__name__} with {wanted!r}, got a '
                f"style with {self.style.norm!r}. Give the head the backbone's style, as in "
                f"dict(type='mmsparx.SparXClsHead', style={backbone.STYLE!r}, ...)."
            )

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """A backbone's maps, of which the last, (B, C, H, W), is taken -> (B, C)."""
        return self.norm(feats[-1]).mean((2, 3))

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """A backbone's maps -> logits (B, num_classes)."""
        return self.fc(self.pre_logits(feats))
