"""Published and own weights into a backbone, by every function."""

from pathlib import Path

import pytest
import torch
from helpers import oracle_shapes, oracle_weights, randomise
from helpers.weights import (
    LEARNABLE,
    assert_loaded,
    assert_unchanged,
    build,
    build_classifier,
    published_classifier,
    published_detector,
    state_of,
)
from mmengine.logging import HistoryBuffer
from mmengine.model import PretrainedInit
from mmengine.runner import load_checkpoint
from torch import nn

from mmsparx.models import SparXMamba, load_pretrained
from mmsparx.weights.names import SPARX


class TestPublishedFiles:
    def test_the_imagenet_file_of_tiny(self, tmp_path):
        weights = {name: x.float() for name, x in oracle_weights(oracle_shapes('t')).items() if x.is_floating_point()}
        counters = {name: torch.tensor(7) for name in oracle_shapes('t') if name.endswith('num_batches_tracked')}
        torch.save(weights | counters, tmp_path / 'tiny.pth')
        cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'tiny.pth'))
        model = SparXMamba('tiny', aggregator=LEARNABLE, init_cfg=cfg)
        model.init_weights()
        assert model.is_init
        loaded = {name: x for name, x in model.state_dict().items() if not name.startswith('out_norms.')}
        for name, x in loaded.items():
            if not name.endswith('.scale'):
                assert torch.equal(x, (weights | counters)[SPARX.to_published(name)]), name
        # Parameters that are not in the file keep their initial values.
        assert all(norm.weight.eq(1).all() and norm.bias.eq(0).all() for norm in model.out_norms.values())
        scales = [x.item() for name, x in loaded.items() if name.endswith('.scale')]
        assert scales == pytest.approx([(800 * 1333 / 16 / 64) ** -0.5] * 7)

    def test_report(self, save):
        published = published_classifier()
        model = build(aggregator=LEARNABLE)
        report = load_pretrained(model, save(published))
        assert report.ok
        assert_loaded(model, published)
        names = set(model.state_dict())
        fresh = {name for name in names if name.startswith('out_norms.') or name.endswith('.scale')}
        assert set(report.fresh) == fresh
        assert len(fresh) == 8 + 4
        assert set(report.matched) == names - fresh
        assert set(report.left_out) == {'head.norm.weight', 'head.norm.bias', 'head.fc.weight', 'head.fc.bias'}
        assert report.missing == report.unexpected == []
        assert report.wrong_shape == {}
        text = str(report)
        assert f'weights.pth: {len(report.matched)} of {len(names)} tensors match, 99' in text
        assert '12 keep their initial values: ' in text
        assert '4 in the file, not in the model, left out: head.norm.weight' in text

    @pytest.mark.parametrize('module', ['', 'module.'])
    def test_a_checkpoint_of_a_runner(self, module, save):
        published = published_detector(f'{module}backbone.')
        history = HistoryBuffer([1.5, 2.5], [1, 1])
        checkpoint = {
            'meta': {'epoch': 12, 'seed': 0, 'dataset_meta': {'classes': ('a', 'b')}},
            'state_dict': published,
            'message_hub': {'log_scalars': {'train/loss': history}},
            'optimizer': torch.optim.AdamW([nn.Parameter(torch.zeros(2))]).state_dict(),
        }
        model = build(aggregator=LEARNABLE)
        report = load_pretrained(model, save(checkpoint))
        assert report.ok
        assert report.fresh == report.left_out == []
        assert_loaded(model, published, f'{module}backbone.')

    def test_flat_with_module_prefix(self, save):
        published = published_classifier()
        model = build()
        assert load_pretrained(model, save({f'module.{name}': x for name, x in published.items()})).ok
        assert_loaded(model, published)

    def test_under_model(self, save):
        published = published_classifier()
        model = build()
        assert load_pretrained(model, save({'model': published, 'epoch': 3})).ok
        assert_loaded(model, published)

    def test_earlier_stages_from_a_whole_file(self, save):
        published = published_detector()
        model = build(aggregator=LEARNABLE, out_indices=(0, 1))
        report = load_pretrained(model, save({'state_dict': published}))
        assert_loaded(model, published, 'backbone.')
        assert all(name.startswith(('stages.2.', 'stages.3.', 'out_norms.')) for name in report.left_out)
        assert {name for name in report.left_out if name.startswith('out_norms.')} == {
            f'out_norms.{i}.{leaf}' for i in (2, 3) for leaf in ('weight', 'bias')
        }

    def test_own_names(self, save):
        trained = randomise(build(aggregator=LEARNABLE))
        for content in (
            trained.state_dict(),
            {'state_dict': {f'backbone.{name}': x for name, x in trained.state_dict().items()}},
        ):
            model = build(aggregator=LEARNABLE)
            report = load_pretrained(model, save(content))
            assert report.fresh == report.left_out == []
            assert_unchanged(model, trained.state_dict())

    @pytest.mark.parametrize('prefix', ['student.backbone', 'student.backbone.'])
    def test_prefix(self, prefix, save):
        published = published_detector('student.backbone.')
        model = build(aggregator=LEARNABLE)
        assert load_pretrained(model, save(published), prefix=prefix).ok
        assert_loaded(model, published, 'student.backbone.')

    def test_empty_prefix_takes_names_as_they_are(self, save):
        published = published_classifier()
        extra = {'teacher.of_a_teacher': torch.zeros(1)}
        with pytest.raises(RuntimeError, match=r'1 UNEXPECTED in the file: teacher\.of_a_teacher'):
            load_pretrained(build(), save(published | extra), prefix='')
        assert load_pretrained(build(), save(published), prefix='').ok
        with pytest.raises(RuntimeError, match=r"begin with 'backbone\.'; try prefix='backbone\.'"):
            load_pretrained(build(aggregator=LEARNABLE), save(published_detector()), prefix='')

    def test_the_place_is_found(self, save):
        student, teacher = (published_detector(f'{who}.backbone.') for who in ('student', 'teacher'))
        model = build(aggregator=LEARNABLE)
        assert load_pretrained(model, save(student)).ok
        assert_loaded(model, student, 'student.backbone.')
        with pytest.raises(
            ValueError, match=r'several SparX .* prefix=, one of student\.backbone\., teacher\.backbone'
        ):
            load_pretrained(model, save(student | teacher))
        assert load_pretrained(model, save(published_detector() | teacher)).ok  # 'backbone.' comes first

    def test_a_path(self, save):
        assert load_pretrained(build(), Path(save(published_classifier()))).ok

    def test_types_are_the_models(self, save):
        published = {name: x.half() if x.is_floating_point() else x for name, x in published_classifier().items()}
        model = build().double()
        load_pretrained(model, save(published))
        assert {x.dtype for x in model.parameters()} == {torch.float64}
        assert_loaded(model, published)


class TestInitWeights:
    def test_loads_once(self, save):
        path = save(published_classifier(seed=1))
        model = build(init_cfg=dict(type='Pretrained', checkpoint=path))
        model.init_weights()
        before = state_of(model)
        save(published_classifier(seed=2))
        model.init_weights()
        assert_unchanged(model, before)

    @pytest.mark.parametrize(
        'cfg',
        [
            lambda path: [dict(type='Pretrained', checkpoint=path)],
            lambda path: dict(type=PretrainedInit, checkpoint=path),
        ],
        ids=['list', 'class'],
    )
    def test_other_ways_to_say_it_are_as_strict(self, cfg, save):
        published = published_classifier()
        model = build(init_cfg=cfg(save(published)))
        model.init_weights()
        assert_loaded(model, published)
        del published['patch_embed.0.weight']
        with pytest.raises(RuntimeError, match=r'1 MISSING in the file: stem\.0\.weight'):
            build(init_cfg=cfg(save(published))).init_weights()

    def test_pretrained_weights_stand_alone(self, save):
        cfgs = [dict(type='Pretrained', checkpoint=save(published_classifier())), dict(type='Kaiming', layer='Conv2d')]
        with pytest.raises(ValueError, match='pretrained weights fill the network and stand alone'):
            build(init_cfg=cfgs).init_weights()

    def test_the_options_of_load_pretrained(self, save):
        raw, average, seen = (published_detector(f'{who}.backbone.') for who in ('student', 'student', 'teacher'))
        average = {name: x + 1 for name, x in average.items()}
        cfg = dict(type='Pretrained', checkpoint=save({'model': raw | seen, 'model_ema': average | seen}))
        model = build(aggregator=LEARNABLE, init_cfg=cfg | dict(prefix='student.backbone', weights='raw'))
        model.init_weights()
        assert_loaded(model, raw, 'student.backbone.')
        model = build(aggregator=LEARNABLE, init_cfg=cfg | dict(prefix='student.backbone'))
        model.init_weights()
        assert_loaded(model, average, 'student.backbone.')

        published = published_classifier()
        published['patch_embed.0.weight'] = torch.zeros(4, 3, 5, 5)
        cfg = dict(type='Pretrained', checkpoint=save(published), map_location='cpu', may_differ='stem.0.*')
        model = build(init_cfg=cfg)
        before = model.stem[0].weight.clone()
        model.init_weights()
        assert torch.equal(model.stem[0].weight, before)
        assert torch.equal(model.stem[1].weight, published['patch_embed.1.weight'])

    @pytest.mark.parametrize('option', ['strict', 'may_difer', 'prefx', 'revise_keys'])
    def test_an_unknown_option(self, option, save):
        cfg = {'type': 'Pretrained', 'checkpoint': save(published_classifier()), option: 'x'}
        with pytest.raises(ValueError, match=f'unknown option {option} .*known ones: adapt_channels, checkpoint, may_'):
            build(init_cfg=cfg).init_weights()

    def test_no_file(self):
        with pytest.raises(ValueError, match="expected checkpoint='file or address'"):
            build(init_cfg=dict(type='Pretrained')).init_weights()

    def test_inside_a_detector(self, save):
        # mmengine visits a detector's children, and calls the initialisation of each.
        from mmengine.model import BaseModule

        class Detector(BaseModule):
            def __init__(self, backbone):
                super().__init__()
                self.backbone = backbone
                self.head = nn.Linear(2, 2)

        published = published_classifier()
        model = Detector(build(init_cfg=dict(type='Pretrained', checkpoint=save(published))))
        model.init_weights()
        assert_loaded(model.backbone, published)

    def test_other_kinds_are_mmengines(self):
        model = build(init_cfg=dict(type='Constant', layer='Conv2d', val=0.5))
        model.init_weights()
        assert model.stem[0].weight.eq(0.5).all()


class TestPlainLoading:
    def wrapper(self, **options):
        return nn.ModuleDict({'backbone': build(**options), 'head': nn.Linear(2, 2)})

    def test_load_state_dict_of_a_wrapper(self):
        published = published_detector()
        published = {name: x for name, x in published.items() if not name.startswith('neck.')}
        before = dict(published)
        model = self.wrapper(aggregator=LEARNABLE)
        head = {f'head.{name}': x for name, x in model['head'].state_dict().items()}
        result = model.load_state_dict(published | head)  # strictly
        assert result.missing_keys == result.unexpected_keys == []
        assert_loaded(model['backbone'], published, 'backbone.')
        assert published.keys() == before.keys()

    def test_load_state_dict_names_the_mismatch(self):
        published = published_detector()
        del published['backbone.patch_embed.0.weight']
        with pytest.raises(RuntimeError, match=r'"backbone\.stem\.0\.weight"') as error:
            self.wrapper(aggregator=LEARNABLE).load_state_dict(published)
        assert 'Unexpected key(s) in state_dict: "neck.conv.weight"' in str(error.value)

    @pytest.mark.parametrize('strict', [True, False])
    def test_mmengines_load_checkpoint(self, strict, save):
        published = published_detector()
        published = {name: x for name, x in published.items() if strict is False or not name.startswith('neck.')}
        model = nn.ModuleDict({'backbone': build(aggregator=LEARNABLE)})
        load_checkpoint(model, save({'state_dict': published, 'meta': {}}), map_location='cpu', strict=strict)
        assert_loaded(model['backbone'], published, 'backbone.')

    def test_the_classifier_takes_a_flat_file(self):
        published = published_classifier()
        model = build_classifier()
        model.load_state_dict(published)
        assert_loaded(model.backbone, published)
        assert torch.equal(model.head.fc.weight, published['classifier.3.weight'])
        model.load_state_dict(model.state_dict())  # its own names do as well

    def test_names_of_ours_are_left_alone(self):
        trained = randomise(build())
        model = build()
        model.load_state_dict(trained.state_dict())
        assert_unchanged(model, trained.state_dict())
