"""Classifiers of named sizes, with the weights that their authors published."""

from mmsparx.hub import published_model
from mmsparx.models.backbones import SparXNet
from mmsparx.models.classifier import SparXClassifier
from mmsparx.weights import load_pretrained


def build_classifier(
    family: type[SparXNet], arch: str, *, pretrained: bool = False, num_classes: int = 1000, **backbone
) -> SparXClassifier:
    """A classifier of named sizes.

    Args:
        family: Class of the backbone, as `SparXMamba`.
        arch: Name of its sizes, as 'tiny'.
        pretrained: Whether to load the published weights of ImageNet-1k, strictly. A head of other classes starts from
            initial values, and a stem of RGB images is fitted to other `in_channels`.
        num_classes: Number of classes; 0 leaves the linear layer out.
        **backbone: Further options of the backbone, as `drop_path_rate` or `in_channels`.

    Raises:
        ValueError: No weights of the network are published, or an option does not fit.
        RuntimeError: The weights are not available, or do not match; see `load_pretrained`.
    """
    model = SparXClassifier(family(arch, out_indices=(3,), output_norm=False, **backbone), num_classes)
    if not pretrained:
        return model
    address = (published_model(family.__name__, arch) or {}).get('Weights')
    if address is None:
        raise ValueError(
            f'pretrained: expected False, since no weights of {family.__name__} {arch!r} are published, got '
            f'{pretrained!r}'
        )
    load_pretrained(model, address, may_differ='head.fc.*' if num_classes != 1000 else (), adapt_channels=True)
    return model
