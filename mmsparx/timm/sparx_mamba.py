"""timm's entry points and default configs of SparX-Mamba."""

from timm.models import generate_default_cfgs, register_model

from mmsparx.models import SparXMamba
from mmsparx.timm.entry import config, maker

__all__ = []  # timm fills it

_RELEASE = 'https://github.com/LMMMEng/SparX/releases/download/v1'

default_cfgs = generate_default_cfgs(
    {
        'sparx_mamba_tiny.in1k': config(0.9, f'{_RELEASE}/sparx_mamba_tiny_in1k.pth'),
        'sparx_mamba_small.in1k': config(0.95, f'{_RELEASE}/sparx_mamba_small_in1k.pth'),
        'sparx_mamba_base.in1k': config(0.95, f'{_RELEASE}/sparx_mamba_base_in1k.pth'),
    }
)
_make = maker(SparXMamba)


@register_model
def sparx_mamba_tiny(pretrained: bool = False, **options):
    """SparX-Mamba-T, 27.1 M parameters; for the options see `mmsparx.timm.model.TimmClassifier`."""
    return _make('sparx_mamba_tiny', pretrained, **options)


@register_model
def sparx_mamba_small(pretrained: bool = False, **options):
    """SparX-Mamba-S, 47.4 M parameters; for the options see `mmsparx.timm.model.TimmClassifier`."""
    return _make('sparx_mamba_small', pretrained, **options)


@register_model
def sparx_mamba_base(pretrained: bool = False, **options):
    """SparX-Mamba-B, 83.5 M parameters; for the options see `mmsparx.timm.model.TimmClassifier`."""
    return _make('sparx_mamba_base', pretrained, **options)
