"""timm's entry points and default configs of the published networks."""

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from mmsparx.timm.loading import match_checkpoint, reading_ours
from mmsparx.timm.model import TimmSparXMamba

__all__ = []  # timm fills it


def _cfg(name: str, crop_pct: float) -> dict:
    return {
        'url': f'https://github.com/LMMMEng/SparX/releases/download/v1/sparx_mamba_{name}_in1k.pth',
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (7, 7),
        'crop_pct': crop_pct,
        'interpolation': 'bicubic',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'backbone.stem.0',
        'classifier': 'head.fc',
        'paper_ids': 'arXiv:2409.09649',
        'paper_name': 'SparX: A Sparse Cross-Layer Connection Mechanism for Hierarchical Vision Mamba and '
        'Transformer Networks',
        'origin_url': 'https://github.com/LMMMEng/SparX',
    }


default_cfgs = generate_default_cfgs(
    {
        'sparx_mamba_tiny.in1k': _cfg('tiny', 0.9),
        'sparx_mamba_small.in1k': _cfg('small', 0.95),
        'sparx_mamba_base.in1k': _cfg('base', 0.95),
    }
)


def _create(variant: str, pretrained: bool, pretrained_cfg_overlay: dict | None = None, **options):
    with reading_ours():  # from a hub
        return build_model_with_cfg(
            TimmSparXMamba,
            variant,
            pretrained,
            # Files and addresses go through the model's load_pretrained.
            pretrained_cfg_overlay={'custom_load': True, **(pretrained_cfg_overlay or {})},
            pretrained_filter_fn=match_checkpoint,
            feature_cfg={'out_indices': (0, 1, 2, 3), 'feature_cls': 'getter'},
            arch=variant.removeprefix('sparx_mamba_'),
            **options,
        )


@register_model
def sparx_mamba_tiny(pretrained: bool = False, **options):
    """SparX-Mamba-T, 27.1 M parameters; for the options see `mmsparx.timm.model.TimmSparXMamba`."""
    return _create('sparx_mamba_tiny', pretrained, **options)


@register_model
def sparx_mamba_small(pretrained: bool = False, **options):
    """SparX-Mamba-S, 47.4 M parameters; for the options see `mmsparx.timm.model.TimmSparXMamba`."""
    return _create('sparx_mamba_small', pretrained, **options)


@register_model
def sparx_mamba_base(pretrained: bool = False, **options):
    """SparX-Mamba-B, 83.5 M parameters; for the options see `mmsparx.timm.model.TimmSparXMamba`."""
    return _create('sparx_mamba_base', pretrained, **options)
