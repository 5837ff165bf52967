"""Published and own weights through every door, and what is refused at each."""

import copy

import pytest
import torch
from helpers import SMALL_ARCH, oracle_shapes, oracle_weights, randomise
from mmengine.logging import HistoryBuffer
from mmengine.model import PretrainedInit
from mmengine.runner import load_checkpoint
from torch import nn

from mmsparx.models import SparXClassifier, SparXMamba, load_pretrained
from mmsparx.models.checkpoint import read_state_dict
from mmsparx.models.names import to_ours, to_published

LEARNABLE = {'type': 'DMCA', 'learnable_scale': True}


def build(arch=SMALL_ARCH, **options):
    return SparXMamba(arch, **options)


def published_classifier(seed=0):
    """A flat state dict of published names, as of a classifier of the small architecture."""
    model = randomise(SparXClassifier(build(out_indices=(3,), output_norm=False), num_classes=5), seed)
    state = {to_published(name.removeprefix('backbone.')): x for name, x in model.state_dict().items()}
    assert None not in state
    return state


def published_detector(prefix='backbone.'):
    """The state dict of a detector with published names, heads and all."""
    model = randomise(build(aggregator=LEARNABLE))
    state = {f'{prefix}{to_published(name)}': x for name, x in model.state_dict().items()}
    return state | {prefix.replace('backbone.', 'neck.') + 'conv.weight': torch.zeros(2)}


@pytest.fixture
def save(tmp_path):
    """Saves anything and returns the path as mmengine wants it."""

    def save(content, name='weights.pth'):
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return save


def assert_loaded(model, published, prefix=''):
    """Every tensor of the model that the file has is the file's."""
    for name, x in model.state_dict().items():
        key = f'{prefix}{to_published(name)}'
        if key in published:
            assert torch.equal(x, published[key].to(x.dtype)), name


def state_of(model):
    return copy.deepcopy(model.state_dict())


def assert_unchanged(model, before):
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


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
                assert torch.equal(x, (weights | counters)[to_published(name)]), name
        # What is not in the file is as it starts.
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
        assert set(report.loaded) == names - fresh
        assert set(report.ignored) == {'head.norm.weight', 'head.norm.bias', 'head.fc.weight', 'head.fc.bias'}
        assert report.missing == report.unexpected == []
        assert report.mismatched == {}
        text = str(report)
        assert f'weights.pth: {len(report.loaded)} tensors loaded' in text
        assert '12 not in the file, keep their initial values: ' in text
        assert '4 in the file, not in the model, left out: head.norm.weight' in text

    @pytest.mark.parametrize('module', ['', 'module.'])
    def test_what_a_runner_writes(self, module, save):
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
        assert report.fresh == report.ignored == []
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
        assert all(
            name.startswith(('stages.1.downsample.', 'stages.2.', 'stages.3.', 'out_norms.')) for name in report.ignored
        )
        assert {name for name in report.ignored if name.startswith('out_norms.')} == {
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
            assert report.fresh == report.ignored == []
            assert_unchanged(model, trained.state_dict())

    @pytest.mark.parametrize('prefix', ['student.backbone', 'student.backbone.'])
    def test_prefix(self, prefix, save):
        published = published_detector('student.backbone.')
        model = build(aggregator=LEARNABLE)
        assert load_pretrained(model, save(published), prefix=prefix).ok
        assert_loaded(model, published, 'student.backbone.')

    def test_empty_prefix_takes_names_as_they_are(self, save):
        published = published_classifier()
        extra = {'backbone.of_a_teacher': torch.zeros(1)}
        with pytest.raises(RuntimeError, match='MISSING'):
            load_pretrained(build(), save(published | extra))
        model = build()
        with pytest.raises(RuntimeError, match=r'1 UNEXPECTED in the file: backbone\.of_a_teacher'):
            load_pretrained(model, save(published | extra), prefix='')
        assert load_pretrained(model, save(published), prefix='').ok

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

    def test_inside_a_detector(self, save):
        # mmengine walks a detector's children, and tells each to initialise itself.
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

    def test_load_state_dict_names_what_is_wrong(self):
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
        model = SparXClassifier(build(out_indices=(3,), output_norm=False), num_classes=5)
        model.load_state_dict(published)
        assert_loaded(model.backbone, published)
        assert torch.equal(model.head.fc.weight, published['classifier.3.weight'])
        model.load_state_dict(model.state_dict())  # its own names do as well

    def test_names_of_ours_are_left_alone(self):
        trained = randomise(build())
        model = build()
        model.load_state_dict(trained.state_dict())
        assert_unchanged(model, trained.state_dict())


class TestRefused:
    """What does not match is an error that names it, and nothing is loaded."""

    def assert_refused(self, model, path, *messages, **options):
        before = state_of(model)
        with pytest.raises(RuntimeError) as error:
            load_pretrained(model, path, **options)
        text = str(error.value)
        assert path in text
        for message in messages:
            assert message in text, text
        assert_unchanged(model, before)

    @pytest.mark.parametrize(
        'name', ['patch_embed.0.weight', 'layers.2.blocks.0.op.A_logs', 'layers.0.downsample.1.bias']
    )
    def test_missing(self, name, save):
        published = published_classifier()
        del published[name]
        self.assert_refused(build(), save(published), f'1 MISSING in the file: {to_ours(name)}', 'Nothing was loaded.')

    def test_the_scale_may_be_missing_and_not_be_left_over(self, save):
        self.assert_refused(
            build(),
            save({'state_dict': published_detector()}),
            '4 UNEXPECTED in the file: stages.1.layers.1.mixer.in_proj.scale',
            'aggregator=dict(..., learnable_scale=True) gives the model',
        )

    def test_output_norms_may_be_missing_and_not_be_left_over(self, save):
        published = {name: x for name, x in published_detector().items() if not name.endswith('.scale')}
        self.assert_refused(build(output_norm=False), save(published), '8 UNEXPECTED in the file: out_norms.0.weight')

    @pytest.mark.parametrize('name', ['layers.0.blocks.0.op.extra', 'layers.0.blocks.0.norm.extra', 'whatever'])
    def test_unexpected(self, name, save):
        published = published_classifier() | {name: torch.zeros(1)}
        self.assert_refused(build(), save(published), '1 UNEXPECTED in the file: ', 'of another network, or incomplete')

    def test_another_shape(self, save):
        published = published_classifier()
        published['patch_embed.0.weight'] = torch.zeros(4, 1, 3, 3)
        self.assert_refused(
            build(), save(published), '1 of ANOTHER SHAPE: stem.0.weight (model (4, 3, 3, 3), file (4, 1, 3, 3))'
        )

    @pytest.mark.parametrize(('letter', 'name', 'layers'), [('s', 'small', 23), ('b', 'base', 28)])
    def test_another_arch(self, letter, name, layers, save):
        # Stride 0 keeps the file small.
        published = {name: torch.zeros(()).expand(shape) for name, shape in oracle_shapes(letter).items()}
        with torch.device('meta'):
            model = SparXMamba('tiny')
        with pytest.raises(RuntimeError) as error:
            load_pretrained(model, save(published))
        assert f"The checkpoint is of another arch (perhaps '{name}'): it has {layers} layers and" in str(error.value)
        assert 'this model 13 and 12.' in str(error.value)

    def test_another_width(self, save):
        model = build(SMALL_ARCH | {'channels': (8, 16, 24, 36)})
        self.assert_refused(model, save(published_classifier()), 'of ANOTHER SHAPE', 'of another arch: it has 7 layers')

    @pytest.mark.parametrize(
        'names',
        [('rpn_head.conv.weight', 'roi_head.fc.bias'), ('backbone.layer1.0.conv1.weight', 'neck.conv.bias')],
        ids=['no backbone', 'another backbone'],
    )
    def test_another_detector(self, names, save):
        content = {'state_dict': {name: torch.zeros(2) for name in names}, 'meta': {}}
        first = names[0].removeprefix('backbone.')
        self.assert_refused(
            build(), save(content), f"None of its names is a SparX backbone's; they begin with: {first}", 'MISSING'
        )

    def test_wrong_prefix(self, save):
        self.assert_refused(
            build(), save(published_detector()), "None of its names is a SparX backbone's", prefix='neck'
        )


class TestUnreadable:
    @pytest.fixture
    def refused(self):
        """Asserts that a source is refused by loader and network alike; returns the message."""

        def refused(source):
            with pytest.raises(RuntimeError) as error:
                read_state_dict(source)
            model = build(init_cfg=dict(type='Pretrained', checkpoint=source))
            before = state_of(model)
            with pytest.raises(RuntimeError):
                model.init_weights()
            assert_unchanged(model, before)
            assert not model.is_init
            assert error.value.__cause__ is not None
            assert source in str(error.value)
            return str(error.value)

        return refused

    def test_missing_file(self, refused, tmp_path):
        message = refused(str(tmp_path / 'nonesuch.pth'))
        assert 'cannot be had' in message
        assert 'Training from scratch must be chosen: tools/train.py --no-pretrained, or init_cfg=None' in message

    def test_unreachable_address(self, refused, tmp_path, monkeypatch):
        monkeypatch.setenv('TORCH_HOME', str(tmp_path))
        monkeypatch.setenv('no_proxy', '*')
        message = refused('http://127.0.0.1:1/x.pth')
        assert 'cannot be had' in message
        assert 'Training from scratch must be chosen: tools/train.py --no-pretrained, or init_cfg=None' in message

    @pytest.mark.parametrize('keep', [0.0, 0.1, 0.5, 0.99])
    def test_truncated_file(self, keep, refused, save, tmp_path):
        path = tmp_path / 'weights.pth'
        save(published_classifier())
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        assert 'is damaged, or no checkpoint' in refused(str(path))

    @pytest.mark.parametrize(
        'content', [b'<!DOCTYPE html><title>404</title>', b'version https://git-lfs', b'\x80\x02', bytes(300)], ids=repr
    )
    def test_something_else(self, content, refused, tmp_path):
        (tmp_path / 'weights.pth').write_bytes(content)
        assert 'no checkpoint' in refused(str(tmp_path / 'weights.pth'))

    @pytest.mark.parametrize(
        ('content', 'got'),
        [
            ([1, 2], 'got list'),
            (torch.zeros(2), 'got Tensor'),
            ({'epoch': 3, 'loss': 0.1}, 'got dict with the keys epoch, loss'),
            ({'state_dict': {'stem.0.weight': [1.0]}}, 'got dict with the keys state_dict'),
            ({0: torch.zeros(1)}, 'got dict with the keys 0'),
        ],
        ids=['list', 'tensor', 'no weights', 'numbers', 'numbered'],
    )
    def test_no_state_dict(self, content, got, save):
        path = save(content)
        with pytest.raises(RuntimeError, match=f'expected a state dict, flat or under the key "state_dict", {got}'):
            read_state_dict(path)
