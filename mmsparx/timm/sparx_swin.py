"""timm's entry points and default configs of SparX-Swin, of which no weights are published."""

from timm.models import generate_default_cfgs, register_model

from mmsparx.models import SparXSwin
from mmsparx.timm.entry import config, maker

__all__ = []  # timm fills it

# The paper does not say how its images were cropped; these are SparX-Mamba's.
default_cfgs = generate_default_cfgs(
    {'sparx_swin_tiny.untrained': config(0.9), 'sparx_swin_base.untrained': config(0.95)}
)
_make = maker(SparXSwin)


@register_model
def sparx_swin_tiny(pretrained: bool = False, **options):
    """SparX-Swin-T, 26.4 M parameters; for the options see `mmsparx.timm.model.TimmClassifier`."""
    return _make('sparx_swin_tiny', pretrained, **options)


@register_model
def sparx_swin_base(pretrained: bool = False, **options):
    """SparX-Swin-B, 87.4 M parameters; for the options see `mmsparx.timm.model.TimmClassifier`."""
    return _make('sparx_swin_base', pretrained, **options)
