"""Common parts of timm's entry points: default configs, and the construction of a model."""

from collections.abc import Callable, Mapping

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, get_pretrained_cfg
from torch import nn

from mmsparx.hub import PREFIXES, check_types
from mmsparx.models import SparXNet
from mmsparx.models.architecture import Architecture
from mmsparx.timm.loading import match_checkpoint, reading_ours
from mmsparx.timm.model import TimmClassifier

# Sources whose config.json says what timm gives to a network.
_SOURCES = ('hf-hub', 'local-dir')
# The network's own values hold if config.json lacks these, as one of `SparXClassifier.save_pretrained` does.
_PREPARATION = ('crop_pct', 'interpolation', 'mean', 'std', 'first_conv', 'classifier')
# Facts about the networks of the paper.
SPARX = {
    'paper_ids': 'arXiv:2409.09649',
    'paper_name': 'SparX: A Sparse Cross-Layer Connection Mechanism for Hierarchical Vision Mamba and '
    'Transformer Networks',
    'origin_url': 'https://github.com/LMMMEng/SparX',
}


def config(crop_pct: float, url: str | None = None, *, paper: Mapping = SPARX) -> dict:
    """A default config of timm's.

    Args:
        crop_pct: Share of the resized image's side that is cropped.
        url: Address of the weights; None where none are published.
        paper: Source of the network.
    """
    return {
        'url': url,
        'num_classes': 1000,
        'input_size': (3, 224, 224),
        'pool_size': (7, 7),
        'crop_pct': crop_pct,
        'interpolation': 'bicubic',
        'mean': IMAGENET_DEFAULT_MEAN,
        'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'backbone.stem.0',
        'classifier': 'head.fc',
        **paper,
    }


def maker(family: type[SparXNet]) -> Callable[..., nn.Module]:
    """A function that makes the networks of a family.

    Args:
        family: Class of the backbone.

    Returns:
        A function of timm's name of a network, whether to load its published weights, and options of
        `mmsparx.timm.model.TimmClassifier`. `arch` takes the place of the sizes that the name says.
    """

    def make(
        variant: str,
        pretrained: bool,
        pretrained_cfg: dict | str | None = None,
        pretrained_cfg_overlay: dict | None = None,
        arch: str | Mapping | Architecture | None = None,
        **options,
    ) -> nn.Module:
        source = pretrained_cfg.get('source') if isinstance(pretrained_cfg, Mapping) else None
        if source in _SOURCES:
            # timm names what is of the file from 1.0.31 on; before, it may be any of the options.
            given = options.get('pretrained_model_args') or {'arch': arch, **options}
            place = pretrained_cfg.get('hf_hub_id') or pretrained_cfg.get('file')
            check_types(given, family.hub_parts, family.hub_omitted, f'config.json of {place}')
            known = get_pretrained_cfg(variant).to_dict()
            pretrained_cfg = {**{key: known[key] for key in _PREPARATION if key in known}, **pretrained_cfg}
        with reading_ours():  # from a hub
            return build_model_with_cfg(
                TimmClassifier,
                variant,
                pretrained,
                pretrained_cfg=pretrained_cfg,
                # Files and addresses go through the model's load_pretrained.
                pretrained_cfg_overlay={'custom_load': True, **(pretrained_cfg_overlay or {})},
                pretrained_filter_fn=match_checkpoint,
                feature_cfg={'out_indices': (0, 1, 2, 3), 'feature_cls': 'getter'},
                family=family,
                arch=variant.removeprefix(f'{PREFIXES[family.__name__]}_') if arch is None else arch,
                **options,
            )

    return make
