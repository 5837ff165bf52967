"""The configs of the paper's ablations: they build, have SparX-Mamba-T's recipes, and differ as intended."""

from functools import cache

import pytest

pytest.importorskip('mmpretrain', reason='the classification configs stand on mmpretrain')
pytest.importorskip('mmseg', reason='the segmentation configs stand on mmseg')
from helpers.configs import CONFIGS, assert_committed_parameters, build, recipe
from mmengine.config import Config

from mmsparx.models import SparXMamba, StagePlan

ABLATIONS = CONFIGS / 'ablations'
LEAVES = sorted(path.stem for path in ABLATIONS.glob('*.py'))
VARIANTS = sorted(
    path.stem for path in (ABLATIONS / '_base_').glob('*.py') if path.stem not in ('variant', 'in1k', 'fpn_80k')
)
REFERENCES = {'sparx_mamba': 'classification/sparx_mamba_t_in1k.py', 'fpn': 'segmentation/fpn_sparx_t_80k.py'}


@cache
def reference(kind: str) -> tuple[dict, dict]:
    """The recipe of SparX-Mamba-T's config, which the leaves follow, and the shapes of its model's state."""
    cfg = Config.fromfile(CONFIGS / REFERENCES[kind])
    return recipe(cfg), shapes(build(cfg))


def shapes(model) -> dict:
    return {name: x.shape for name, x in model.state_dict().items()}


def test_every_variant_has_both_leaves():
    expected = {f'sparx_mamba_t_{variant}_in1k' for variant in VARIANTS}
    expected |= {f'fpn_sparx_t_{variant}_80k' for variant in VARIANTS}
    assert set(LEAVES) == expected


@pytest.mark.parametrize('name', LEAVES)
def test_a_leaf(name):
    cfg = Config.fromfile(ABLATIONS / f'{name}.py')
    model = build(cfg)
    assert_committed_parameters(name, model)
    channels = list(model.backbone.arch.channels)
    assert channels == cfg.channels
    assert isinstance(model.backbone, SparXMamba)
    assert cfg.model.backbone.drop_path_rate == 0.2
    assert cfg.no_pretrained_weights.endswith('are not published')
    if name.startswith('fpn'):
        assert model.neck.in_channels == channels
        assert cfg.model.backbone.init_cfg is None
    else:
        assert model.head.fc.in_features == channels[-1]
        assert 'init_cfg' not in cfg.model.backbone
    same, others = reference('fpn' if name.startswith('fpn') else 'sparx_mamba')
    assert recipe(cfg) == same
    assert shapes(model) != others  # the network differs from T


def test_the_plan_that_the_variants_change():
    cfg = Config.fromfile(ABLATIONS / '_base_/variant.py')
    assert tuple(map(StagePlan.of, cfg.stages)) == SparXMamba.ARCHITECTURES['tiny'].stages
    assert cfg.channels == list(SparXMamba.ARCHITECTURES['tiny'].channels)
