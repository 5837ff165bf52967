"""What timm's entry points have in common: default configs, and how a model is made."""

from collections.abc import Callable, Mapping

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg
from torch import nn

from mmsparx.models import SparXNet
from mmsparx.timm.loading import PREFIXES, match_checkpoint, reading_ours
from mmsparx.timm.model import TimmClassifier

# Of the networks of the paper.
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
        paper: Where the network comes from.
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
        `mmsparx.timm.model.TimmClassifier`.
    """

    def make(variant: str, pretrained: bool, pretrained_cfg_overlay: dict | None = None, **options) -> nn.Module:
        with reading_ours():  # from a hub
            return build_model_with_cfg(
                TimmClassifier,
                variant,
                pretrained,
                # Files and addresses go through the model's load_pretrained.
                pretrained_cfg_overlay={'custom_load': True, **(pretrained_cfg_overlay or {})},
                pretrained_filter_fn=match_checkpoint,
                feature_cfg={'out_indices': (0, 1, 2, 3), 'feature_cls': 'getter'},
                family=family,
                arch=variant.removeprefix(f'{PREFIXES[family.__name__]}_'),
                **options,
            )

    return make
