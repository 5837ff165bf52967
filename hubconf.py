"""Entry points of torch.hub: ImageNet classifiers of the published sizes.

    torch.hub.load('path/to/clone', 'sparx_mamba_tiny', source='local', pretrained=False)

Each takes `pretrained`, whether to load the published weights; `num_classes`, 1000 by default; and options of the
backbone, as `drop_path_rate` or `in_channels`. A head of other classes starts from initial values.
"""

dependencies = ['torch', 'mmengine']


def _build(family: str, arch: str, **options):
    # The import is within the function, since torch.hub takes every function of this module for an entry point.
    from mmsparx import models
    from mmsparx.models.published import build_classifier

    return build_classifier(getattr(models, family), arch, **options)


def sparx_mamba_tiny(pretrained: bool = False, num_classes: int = 1000, **backbone):
    """SparX-Mamba-T, 27.1 M parameters."""
    return _build('SparXMamba', 'tiny', pretrained=pretrained, num_classes=num_classes, **backbone)


def sparx_mamba_small(pretrained: bool = False, num_classes: int = 1000, **backbone):
    """SparX-Mamba-S, 47.4 M parameters."""
    return _build('SparXMamba', 'small', pretrained=pretrained, num_classes=num_classes, **backbone)


def sparx_mamba_base(pretrained: bool = False, num_classes: int = 1000, **backbone):
    """SparX-Mamba-B, 83.5 M parameters."""
    return _build('SparXMamba', 'base', pretrained=pretrained, num_classes=num_classes, **backbone)


def sparx_swin_tiny(pretrained: bool = False, num_classes: int = 1000, **backbone):
    """SparX-Swin-T, 26.4 M parameters, of which no weights are published."""
    return _build('SparXSwin', 'tiny', pretrained=pretrained, num_classes=num_classes, **backbone)


def sparx_swin_base(pretrained: bool = False, num_classes: int = 1000, **backbone):
    """SparX-Swin-B, 87.4 M parameters, of which no weights are published."""
    return _build('SparXSwin', 'base', pretrained=pretrained, num_classes=num_classes, **backbone)


def vmamba_tiny(pretrained: bool = False, num_classes: int = 1000, **backbone):
    """VMamba-T, variant s2l5, 30.7 M parameters."""
    return _build('VMamba', 'tiny', pretrained=pretrained, num_classes=num_classes, **backbone)


def vmamba_tiny_s1l8(pretrained: bool = False, num_classes: int = 1000, **backbone):
    """VMamba-T, the newer variant s1l8, 30.2 M parameters."""
    return _build('VMamba', 'tiny_s1l8', pretrained=pretrained, num_classes=num_classes, **backbone)


def vmamba_small(pretrained: bool = False, num_classes: int = 1000, **backbone):
    """VMamba-S, 50.1 M parameters."""
    return _build('VMamba', 'small', pretrained=pretrained, num_classes=num_classes, **backbone)


def vmamba_base(pretrained: bool = False, num_classes: int = 1000, **backbone):
    """VMamba-B, 88.6 M parameters."""
    return _build('VMamba', 'base', pretrained=pretrained, num_classes=num_classes, **backbone)
