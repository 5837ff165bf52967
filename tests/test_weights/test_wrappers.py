"""Files of wrapped models, and of other networks whose names look like published ones."""

import pytest
import torch
from helpers import randomise
from helpers.weights import assert_same_bits, assert_unchanged, build, build_classifier, published_classifier
from mmengine.model import ExponentialMovingAverage, StochasticWeightAverage
from mmengine.runner import load_checkpoint
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from mmsparx.models import load_pretrained
from mmsparx.weights.contents import without_wrappers

WRAPPERS = {
    'data parallel': nn.DataParallel,
    'compiled': torch.compile,
    'compiled within data parallel': lambda model: nn.DataParallel(torch.compile(model)),
    'data parallel, compiled': lambda model: torch.compile(nn.DataParallel(model)),
    'averaged by torch': AveragedModel,
    'averaged by mmengine': ExponentialMovingAverage,
    'averaged by mmengine, data parallel': lambda model: nn.DataParallel(StochasticWeightAverage(model)),
    'within a model': lambda model: nn.ModuleDict({'model': model}),
    'checkpointed': checkpoint_wrapper,
}


@pytest.mark.parametrize('wrap', WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize('part', [build, build_classifier])
def test_wrapped(wrap, part, save):
    trained = randomise(part())
    path = save({'state_dict': wrap(trained).state_dict()})
    model = part()
    assert load_pretrained(model, path).share == 1
    assert_unchanged(model, trained.state_dict())


@pytest.mark.parametrize('name', ['data parallel', 'compiled', 'data parallel, compiled', 'checkpointed'])
@pytest.mark.parametrize('part', [build, build_classifier])
def test_the_model_is_wrapped(name, part, save):
    trained = randomise(part())
    model = part()
    report = load_pretrained(WRAPPERS[name](model), save(trained.state_dict()))
    assert report.share == 1
    assert_unchanged(model, trained.state_dict())


@pytest.mark.parametrize('stage', [0, 3])
def test_a_stage_is_wrapped(stage, save):
    trained = randomise(build_classifier())
    expected = {name: x.clone() for name, x in trained.state_dict().items()}
    trained.backbone.stages[stage] = torch.compile(trained.backbone.stages[stage])
    assert any('_orig_mod' in name for name in trained.state_dict())
    model = build_classifier()
    assert load_pretrained(model, save(trained.state_dict())).share == 1
    assert_unchanged(model, expected)
    load_checkpoint(model, save(trained.state_dict()), strict=False)


def test_names_that_would_collide_stay():
    both = {'_orig_mod.w': torch.zeros(1), 'w': torch.ones(1)}
    assert_same_bits(without_wrappers(both), both)


class TestForeignNetworks:
    """Networks whose names begin like SparX's published ones, which are only converted if there is such a backbone."""

    @pytest.fixture(params=['swin_tiny_patch4_window7_224', 'vit_tiny_patch16_224'])
    def foreign(self, request):
        timm = pytest.importorskip('timm', reason='it has a Swin and a ViT')
        options = {'embed_dim': 48, 'depth': 1} if 'vit' in request.param else {'embed_dim': 24, 'depths': (1,) * 4}
        return lambda: timm.create_model(request.param, num_classes=2, **options)

    def test_its_own_file(self, foreign, save):
        trained, model = foreign(), foreign()
        nn.init.normal_(trained.patch_embed.proj.weight)
        load_checkpoint(model, save({'state_dict': trained.state_dict(), 'meta': {}}), strict=True)
        assert_unchanged(model, trained.state_dict())

    def test_beside_a_sparx(self, foreign, save):
        """The teacher keeps its names, whether the student's are published ones or ours."""
        from mmsparx.weights.names import convert_names

        trained = nn.ModuleDict({'backbone': randomise(build()), 'teacher': foreign()})
        nn.init.normal_(trained['teacher'].patch_embed.proj.weight)
        state = trained.state_dict()
        for names in ({name: name for name in state}, convert_names(state, 'published')):
            path = save({new: state[name] for name, new in names.items()})
            model = nn.ModuleDict({'backbone': build(), 'teacher': foreign()})
            assert load_pretrained(model, path).share == 1
            assert_unchanged(model, state)
            load_checkpoint(model, path, strict=True)
            load_pretrained(build(), path, prefix='backbone')

    def test_is_no_sparx(self, foreign, save):
        with pytest.raises(RuntimeError, match="None of its names is a SparX backbone's; they begin with: "):
            load_pretrained(build(), save(foreign().state_dict()))

    def test_a_sparx_is_none_of_it(self, foreign, save):
        with pytest.raises(RuntimeError, match='Missing key'):
            foreign().load_state_dict(published_classifier())
