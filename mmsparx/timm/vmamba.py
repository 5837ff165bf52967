"""timm's entry points and default configs of VMamba."""

from timm.models import generate_default_cfgs, register_model

from mmsparx.models import VMamba
from mmsparx.timm.entry import config, maker

__all__ = []  # timm fills it

_RELEASE = 'https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls'
_PAPER = {
    'paper_ids': 'arXiv:2401.10166',
    'paper_name': 'VMamba: Visual State Space Model',
    'origin_url': 'https://github.com/MzeroMiko/VMamba',
}


def _config(file: str) -> dict:
    return config(0.875, f'{_RELEASE}/{file}.pth', paper=_PAPER)


default_cfgs = generate_default_cfgs(
    {
        'vmamba_tiny.in1k': _config('vssm_tiny_0230_ckpt_epoch_262'),
        'vmamba_tiny_s1l8.in1k': _config('vssm1_tiny_0230s_ckpt_epoch_264'),
        'vmamba_small.in1k': _config('vssm_small_0229_ckpt_epoch_222'),
        'vmamba_base.in1k': _config('vssm_base_0229_ckpt_epoch_237'),
    }
)
_make = maker(VMamba)


@register_model
def vmamba_tiny(pretrained: bool = False, **options):
    """VMamba-T, variant s2l5, 30.7 M parameters; for the options see `mmsparx.timm.model.TimmClassifier`."""
    return _make('vmamba_tiny', pretrained, **options)


@register_model
def vmamba_tiny_s1l8(pretrained: bool = False, **options):
    """VMamba-T, the newer variant s1l8, 30.2 M parameters; for the options see `mmsparx.timm.model.TimmClassifier`."""
    return _make('vmamba_tiny_s1l8', pretrained, **options)


@register_model
def vmamba_small(pretrained: bool = False, **options):
    """VMamba-S, 50.1 M parameters; for the options see `mmsparx.timm.model.TimmClassifier`."""
    return _make('vmamba_small', pretrained, **options)


@register_model
def vmamba_base(pretrained: bool = False, **options):
    """VMamba-B, 88.6 M parameters; for the options see `mmsparx.timm.model.TimmClassifier`."""
    return _make('vmamba_base', pretrained, **options)
